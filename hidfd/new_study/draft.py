"""The text of a study file, from what weights and photos say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hidfd.formatting import plural
from hidfd.new_study.photos import PhotoFacts
from hidfd.new_study.values import Preset, StudyValues, propose
from hidfd.new_study.weights import TeacherFacts

SEARCH = """study:
  num_students: 12
  students_per_generator: 3
  seeds: [1001, 1002]      # fresh ones, on which the best is trained again beside its controls
search:
  distillation.inflation: {type: float, low: 5, high: 400, log: true}
  generation.smoothing.temperature: {type: float, low: 0.5, high: 4, log: true}
  generation.generator_learning_rate: {type: float, low: 0.0002, high: 0.002, log: true}
"""


NO_FIT = "no network of docs/trial.md or torchvision has these names and shapes; or give timm:NAME or FILE.py:FUNCTION"


@dataclass(frozen=True)
class Draft:
    """A study file that is not written yet.

    Attributes:
        text: its text.
        found: sentences about what it rests on.
        to_fill_in: settings that could not be found, by their path.
    """

    text: str
    found: tuple[str, ...]
    to_fill_in: tuple[str, ...]


def draft(
    name: str,
    paths: Mapping[str, str],
    teacher: TeacherFacts,
    photos: PhotoFacts,
    labelled: Mapping[str, PhotoFacts],
    *,
    preset: Preset,
    is_study: bool,
) -> Draft:
    """Return a study file for a teacher and photos.

    Args:
        name: of the study.
        paths: `teacher`, `images` and, if given, `validation` and `test` -> the path to write.
        photos: of the candidates.
        labelled: of the splits that are given.
        is_study: whether sections for a search follow.

    Raises:
        InputError: there are too few photos.
    """
    values = propose(teacher, photos, labelled.values(), preset)
    lines = [
        f"# Written by `python -m hidfd new`; every setting is in docs/trial.md.{_to_fill_in_words(values.to_fill_in)}",
        f"name: {_quoted(_name_of(name))}",
        "trial:",
        f"  preset: {preset}  # {'minutes to hours on a CPU' if preset == 'quick' else 'hours on a GPU'}",
        "  data:",
        _setting("    num_classes", values.num_classes, "rows of the teacher's last layer", "the teacher's classes"),
        f"    channels: {values.channels}  # {values.colours}",
        f"    image_size_pixels: {values.side}  # {values.why_side}",
        f"    candidates: {{path: {_quoted(paths['images'])}}}  # {photos.count:,} photos, {photos.sizes_in_words()}",
        *_labelled_lines(paths, labelled),
        *_teacher_lines(values, paths["teacher"]),
        f"  collection: {{num_images: {values.num_images}, holdout_images: {values.holdout}}}",
        f"  generation: {values.generation}",
        f"  distillation: {{architecture: {values.student}}}  # the small network",
    ]
    found = [
        *teacher.notes,
        f"teacher: {values.fits or NO_FIT}",
        f"mean and std: {values.origin}",
        f"photos: {photos.count:,}, {photos.sizes_in_words()}",
        *(
            f"{split}: {plural(len(facts.class_names), 'class', 'classes')}, but the teacher has {teacher.num_classes}"
            for split, facts in labelled.items()
            if facts.class_names is not None and len(facts.class_names) != teacher.num_classes
        ),
    ]
    if "validation" not in labelled:
        found.append("validation: none; labelled photos (--validation) show whether the teacher is read correctly")
    text = "\n".join(lines) + "\n" + (SEARCH if is_study else "")
    return Draft(text, tuple(found), values.to_fill_in)


def _teacher_lines(values: StudyValues, path: str) -> list[str]:
    fit = values.fit
    lines = ["  teacher:", _setting("    architecture", fit and fit.architecture, values.fits, values.fits or NO_FIT)]
    if fit is not None and fit.width is not None:
        lines.append(f"    width: {fit.width}")
    lines.append(f"    checkpoint: {{path: {_quoted(path)}}}")
    if values.weights is not None or values.choices:
        several = (
            f"the checkpoint holds several sets of weights: {values.choices}" if values.choices else "as asked for"
        )
        lines.append(_setting("    weights", values.weights and _quoted(values.weights), several, several))
    lines.append(f"    mean: {list(values.mean)}  # {values.origin}")
    lines.append(_setting("    std", values.std and list(values.std), values.origin, "the photos have one colour"))
    return lines


def _name_of(stem: str) -> str:
    """Return a name that a study may have, after that of its file."""
    return re.sub("[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:100] or "study"


def _labelled_lines(paths: Mapping[str, str], labelled: Mapping[str, PhotoFacts]) -> list[str]:
    lines = []
    for split in ("validation", "test"):
        if split in labelled:
            facts = labelled[split]
            names = "" if facts.class_names is None else f" of {plural(len(facts.class_names), 'class', 'classes')}"
            lines.append(f"    {split}: {{path: {_quoted(paths[split])}}}  # {facts.count:,} photos{names}")
        elif split == "validation":
            lines.append(
                "    # validation: {path: FOLDER}  # labelled photos, to check the teacher and measure accuracy"
            )
    return lines


def _setting(start: str, value: object, reason: str, missing: str) -> str:
    if value is None:
        return f"{start}:  # fill in: {missing}"
    return f"{start}: {value}  # {reason}"


def _to_fill_in_words(to_fill_in: Sequence[str]) -> str:
    return f" Fill in {' and '.join(to_fill_in)}." if to_fill_in else ""


def _quoted(text: str) -> str:
    """Return a text as YAML has it, in quotes; signs that YAML cannot hold are escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", quoted)
