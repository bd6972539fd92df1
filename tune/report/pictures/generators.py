"""Pictures of what generators learn from and make: collected images, samples of the best and of the worst one."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from hidfd.formatting import percent
from hidfd.report.class_rows import generated_classes, picture_of_classes
from hidfd.report.html import Picture
from hidfd.store.disk import DAMAGE
from tune.report.selection import generator_of, students
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import TaskState


def generator_pictures(snapshot: StudySnapshot) -> list[Picture]:
    """Return pictures of the collected images and of samples of the generators with the best and the worst students."""
    scores: dict[str, float] = {}
    pool = [task for task in students(snapshot) if task.role == "search"] or students(snapshot)
    for task in pool:
        build = generator_of(task, snapshot)
        if build is not None and build.state.is_final and build.attempts:
            no_student = -1.0 if build.state is TaskState.COMPLETE else -2.0  # a generator that failed comes last
            score = task.value if task.state is TaskState.COMPLETE and task.value is not None else no_student
            scores[build.key] = max(score, scores.get(build.key, no_student))
    data = snapshot.trial.data
    names = list(data.class_names) or [str(k) for k in range(data.num_classes)]
    ranked = [build for key in sorted(scores, key=lambda key: -scores[key]) if (build := snapshot.task(key))]
    pictures = []
    collected = next(
        (path for task in snapshot.tasks if (path := Path(task.folder) / "pictures/real.png").is_file()), None
    )
    if collected is not None:
        caption = "A row per class, by the teacher’s argmax; white where it has no more."
        pictures.append(Picture("Collected images", caption, picture_of_classes(collected, names)))
    for title, builds in (("Best generator", ranked[:1]), ("Worst generator", ranked[1:][-1:])):
        samples = [_samples(title, task, scores[task.key], names) for task in builds]
        pictures += [drawn for drawn in samples if drawn is not None]
    return pictures


def _samples(title: str, build: TaskSnapshot, score: float, names: list[str]) -> Picture | None:
    samples = Path(build.folder) / "pictures" / "synthetic.png"
    if samples.is_file():
        drawn = picture_of_classes(samples, names)
    elif build.picture and (grid := Path(build.picture)).is_file():
        drawn = picture_of_classes(grid, names, _generated_classes(build))
    else:
        return None
    words = [f"{build.label}, {build.state}"]
    words.append(f"its best student reached {percent(score)}" if score >= 0 else "none of its students ran to the end")
    if "generator.effective_classes" in build.metrics:
        words.append(f"{build.metrics['generator.effective_classes']:.1f} effective classes")
    if "generator.label_agreement" in build.metrics:
        words.append(f"{percent(build.metrics['generator.label_agreement'], 0)} show their class")
    return Picture(title, "; ".join(words) + ".", drawn)


def _generated_classes(build: TaskSnapshot) -> list[int]:
    """Return the classes that a generator makes, as the manifest in its folder says; none where it says nothing."""
    with contextlib.suppress(OSError, *DAMAGE):
        stages = json.loads((Path(build.folder) / "manifest.json").read_text(encoding="utf-8"))["stages"]
        return generated_classes({stage["role"]: stage["meta"] for stage in stages})
    return []
