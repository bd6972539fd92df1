"""The paper's recipe, cut to the minutes that are left: teacher, generator, students; and the time of the whole one.

Each stage sees as many images as its share of the time allows at a rate measured just before. Everything else is the
paper's. Three students are trained side by side on the same device: hybrid, real-only and synthetic-only.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.images import Images, cut
from benchmarks.gpu.machine import named
from benchmarks.gpu.rates import SECTION as RATES
from benchmarks.gpu.rates import paper_batch, paper_row
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Options, Size
from benchmarks.gpu.together import gain, in_short
from benchmarks.steps import STEPS, StepTimer
from hidfd.config.paths import with_values
from hidfd.config.presets import PRESETS
from hidfd.config.schema import DistillationConfig, GenerationConfig, TeacherTrainingConfig, TrialConfig
from hidfd.distributed.device import Device, resolve_device
from hidfd.formatting import duration
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.store.store import Store
from hidfd.trial import TrialResult, run_trial

SECTION = "The paper's recipe, cut to the minutes left"
CURVE = "Curve"
WHOLE = "The whole recipe, extrapolated"

TEACHER_SECONDS = 60.0
TEACHER_SHARE = 0.33
"""The most of the time left that a teacher takes."""
GENERATOR_SHARE = 0.45
"""Share of what is left after the teacher."""
RESERVED_SECONDS = 20.0
"""Kept back twice: for the synthesis of images and the start of three processes, and for evaluation."""
MIN_SECONDS = 100.0
"""With less than these a run of all stages says nothing."""

STUDENTS: dict[str, dict[str, Any]] = {
    "hybrid": {},
    "real-only": {"synthesis.num_images": 0},
    "synthetic-only": {"distillation.inflation": 0.0},
}
"""Name of a student -> its settings beside the recipe's."""


class Curve(Observer):
    """The rows that a stage of one name reports."""

    def __init__(self, stage: str) -> None:
        self.stage, self.rows = stage, list[dict[str, float]]()

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        if stage.name == self.stage:
            self.rows.append({"images": images, **metrics})

    def measured(self, stage: Stage, images: int, metrics: dict[str, float]) -> None:
        if stage.name == self.stage:
            self.rows.append({"images": images, **metrics})


def run(options: Options, record: Record) -> None:
    """Train the teacher, the generator and three students, and write what became of them."""
    size = options.size
    device = resolve_device(options.device, options.precisions[0])
    record.add_facts({"in short": in_short(record, size, named(device))})
    extrapolate(record, size, named(device))
    folder = Path(tempfile.mkdtemp(prefix="hidfd-gpu-"))
    try:
        _run(options, record, device, folder)
    finally:
        shutil.rmtree(folder)


def _run(options: Options, record: Record, device: Device, folder: Path) -> None:
    size, images = options.size, cut(Path(options.data), options.size, folder / "images")
    store = Store.open(folder / "store")

    def left() -> float:
        return options.ends_at - time.time()

    counts = ", ".join(f"{count:,} {name}" for name, count in images.counts.items())
    section = record.section(
        SECTION,
        f"Images of {images.origin}: {counts}. The settings are the paper's but for the images seen, which are what "
        "the minutes allow, and for the generator's average, which follows a shorter run more closely: this run says "
        f"that the recipe runs, and no accuracy of the paper. {named(device)}."
        + ("" if size.preset == "paper" else " The networks are small ones, not the paper's."),
    )

    def add_curve(name: str, rows: list[dict[str, float]]) -> None:
        curve = record.section(
            f"{CURVE}: {name}", "Losses (docs/method.md names them) and shares between 0 and 1, after so many images."
        )
        for row in rows:
            curve.row({key.split("/")[-1].replace("_", " "): value for key, value in row.items() if key != "seconds"})

    if size.recipe_images is None and left() < MIN_SECONDS:
        section.note(f"not run: {left():.0f} s were left, and it takes at least {MIN_SECONDS:.0f} s")
        return
    config, rate = _largest_teacher(images, size, device, min(TEACHER_SECONDS, TEACHER_SHARE * left()))
    seconds = min(TEACHER_SECONDS, TEACHER_SHARE * left())
    config = with_values(config, _budget("teacher.train", size.recipe_images or int(rate * seconds), size.points))
    result, curve = _trained(config, store, "teacher", device)
    add_curve("teacher", curve.rows)
    assert config.teacher.train is not None
    section.row(
        _cells(f"teacher {config.teacher.architecture}", result, "teacher", config.teacher.train.target_images)
        | {"validation accuracy, %": _percent(result.metrics["teacher_validation_accuracy"])}
    )

    rate = _rate("GAN step", config, device, size)
    seconds = GENERATOR_SHARE * (left() - 2 * RESERVED_SECONDS)
    config = with_values(config, _budget("generation", size.recipe_images or int(rate * seconds), size.points))
    result, curve = _trained(config, store, "generation", device)
    add_curve("GAN", curve.rows)
    section.row(_cells("GAN", result, "generation", config.generation.target_images) | {"validation accuracy, %": None})
    proxies = store.get("generation", result.stages["generation"].digest)
    for name, value in proxies.meta["proxies"].items():
        if value is not None:
            section.note(f"generator, {name.replace('_', ' ')}: {value:.3f}")
    grid = max(file for file in proxies.files if file.startswith("grid-"))
    picture = record.path.with_name(f"{record.path.name}-samples.png")
    picture.write_bytes(proxies.path(grid).read_bytes())
    section.note(f"![one row of generated images per class]({picture.name})")

    result, _ = _trained(config, store, "synthesis", device)
    rate = _rate("KD step", config, device, size) * gain(record, "KD step", len(size.students)) / len(size.students)
    seconds = left() - RESERVED_SECONDS
    config = with_values(config, _budget("distillation", size.recipe_images or int(rate * seconds), size.points))
    with multiprocessing.get_context("spawn").Pool(len(size.students)) as pool:
        arguments = [(with_values(config, STUDENTS[name]), store.uri, options.device) for name in size.students]
        students = pool.starmap(train_student, arguments)
    for name, (cells, rows) in zip(size.students, students, strict=True):
        add_curve(name, rows)
        section.row({"of": f"student {config.distillation.architecture}, {name}", **cells})


def train_student(config: TrialConfig, store: str, device: str) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Train and evaluate one student in this process; return the cells of its row, and its curve."""
    result, curve = _trained(config, Store.open(store), "evaluation", resolve_device(device, config.precision))
    cells = _cells("", result, "distillation", config.distillation.target_images)
    del cells["of"]
    metrics = result.metrics
    cells |= {
        "validation accuracy, %": _percent(metrics["validation_accuracy"]),
        "agreement, %": _percent(metrics["agreement"]),
    }
    return cells, [row for row in curve.rows if "agreement" in row]


def _trained(config: TrialConfig, store: Store, until: str, device: Device) -> tuple[TrialResult, Curve]:
    curve = Curve({"evaluation": "distillation"}.get(until, until))
    return run_trial(config, store, until=until, device=device.torch_device.type, observer=curve), curve


def _largest_teacher(images: Images, size: Size, device: Device, seconds: float) -> tuple[TrialConfig, float]:
    """Return the recipe with the largest teacher whose passes fit into some seconds, and its rate in images/s."""
    for number, name in enumerate(size.teachers[:-1]):
        config = recipe(images, size, device.precision, name, size.teachers[number + 1])
        rate = _rate("teacher step", config, device, size)
        if rate * seconds >= size.teacher_epochs * images.counts["teacher"] or number == len(size.teachers) - 2:
            return config, rate
    raise AssertionError(f"{size.teachers}: a teacher needs a student after it")


def recipe(images: Images, size: Size, precision: str, teacher: str, student: str) -> TrialConfig:
    """Return the recipe for some images: a preset's settings, with the sizes of this run."""
    holdout = min(size.holdout, images.counts["candidates"] // 5)
    values: dict[str, Any] = PRESETS[size.preset] | {
        "precision": precision,
        "data": {
            "num_classes": images.num_classes,
            "channels": images.channels,
            "image_size_pixels": images.side_pixels,
            "candidates": {"path": str(images.candidates)},
            "validation": {"path": str(images.validation)},
            "candidates_in_domain": images.in_domain,
        },
        "teacher": {
            "architecture": teacher,
            "accept": True,  # however little it has learned in its seconds
            "train": {"images": {"path": str(images.teacher)}, "batch_images": size.teacher_batch},
        },
        "checkpoint_every_seconds": 3600.0,
    }
    sections: dict[str, dict[str, Any]] = {
        "collection": {
            "num_images": min(size.collected, images.counts["candidates"] - holdout),
            "holdout_images": holdout,
        },
        "generation": {
            "batch_images": size.gan_batch,
            # The paper's average looks back over more images than a cut run sees.
            "ema": {**values.get("generation", {}).get("ema", {}), "ramp": 0.05},
            "image_size_pixels": 28 if images.side_pixels == 28 else 32,
        },
        "synthesis": {"num_images": size.synthetic},
        "distillation": {"architecture": student, "batch_images": size.student_batch},
    }
    for section, settings in sections.items():
        values[section] = {**values.get(section, {}), **settings}
    return TrialConfig.model_validate(values)


def _budget(section: str, images: int, points: int) -> dict[str, Any]:
    """Return the settings of a network that sees as many images, with as many rows of metrics."""
    every = max(1, images // points)
    values: dict[str, Any] = {f"{section}.target_images": images, "log_every_images": every}
    if section == "generation":
        values |= {"generation.grid_every_images": every, "generation.proxies_every_images": images}
    if section == "distillation":
        values["distillation.measure_every_images"] = every
    return values


def _rate(kind: str, config: TrialConfig, device: Device, size: Size) -> float:
    """Return the images/s of a step of the recipe, on random images."""
    batch = paper_batch(kind, size)
    step = STEPS[kind](with_values(config, {"distillation.batch_images": batch}), device)
    timer = StepTimer(step.call, step.batch_images, device)
    timer.warm_up()
    return timer.images_per_second(size.row_seconds)


def _cells(name: str, result: TrialResult, role: str, images: int) -> dict[str, Any]:
    seconds = result.seconds[role]
    return {"of": name, "images": images, "seconds": seconds, "images/s": images / seconds}


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def extrapolate(record: Record, size: Size, precision: str) -> None:
    """Write how long the whole recipe would take at the measured rates of its networks."""
    section = record.section(
        WHOLE,
        "Not run: the images of the paper's budgets over the rates above. `as the paper`: eager, the paper's batch. "
        "`fastest`: the fastest row of that step, which is another recipe where its batch is another one."
        + ("" if size.preset == "paper" else " The networks are small ones, so this says nothing about the paper's."),
    )
    budgets = {
        "teacher step": TeacherTrainingConfig.model_fields["target_images"].default,
        "GAN step": GenerationConfig().target_images,
        "KD step": DistillationConfig().target_images,
    }
    totals = {"as the paper": 0.0, "fastest": 0.0}
    for kind, images in budgets.items():
        rows = [
            row
            for row in record.rows(RATES)
            if str(row["step"]).startswith(kind) and isinstance(row["images/s"], float)
        ]
        paper = paper_row(record, kind, size, precision)
        if paper is None:
            section.note(f"{kind}: no rate was measured")
            continue
        fastest = max(rows, key=lambda row: float(row["images/s"]))
        minutes = {"as the paper": images / paper["images/s"] / 60, "fastest": images / fastest["images/s"] / 60}
        for name, value in minutes.items():
            totals[name] += value
        section.row(
            {
                "stage": kind,
                "images": images,
                "as the paper, minutes": minutes["as the paper"],
                "fastest, minutes": minutes["fastest"],
                "fastest is": f"{fastest['execution']}, {fastest['precision']}, batch {fastest['batch']}",
            }
        )
    section.note(
        f"together {duration(60 * totals['as the paper'])} as the paper, {duration(60 * totals['fastest'])} at the "
        f"fastest rows; imports, synthesis and evaluation take seconds more"
    )
