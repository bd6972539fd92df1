"""The model card of an exported student, in Markdown: what it is, its teacher, its numbers, what they do not say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hidfd.config.schema import TrialConfig
from hidfd.data.sources import materials
from hidfd.export.formats import FORMAT_NAMES, NETWORK_FILES, Format
from hidfd.export.preprocessing import CLASSIFY, PACKAGES, Preprocessing
from hidfd.formatting import NONE, percent, percent_with_error

if TYPE_CHECKING:
    from hidfd.export.comparison import LogitComparison  # which loads torch

MEASURED = {
    "agreement": "agreement with the teacher",
    "validation_accuracy": "validation accuracy",
    "test_accuracy": "test accuracy",
}
"""Measure -> its name in the table of numbers."""

RUNTIMES: dict[Format, str] = {"onnx": "onnxruntime", "torch": "torch.export", "safetensors": "the weights read back"}
"""Format -> what has run the exported network, in words."""


@dataclass(frozen=True)
class StudentOrigin:
    """The origin of a student, as far as its settings do not say it.

    Attributes:
        study, label: names of the study and of the trial.
        command: that makes it again.
        metrics: numbers of this student, by their names in `result.json`.
        means, deviations: of its setting over fresh seeds: measure -> mean and sample standard deviation.
        num_seeds: n of these means; 1 = there is this student alone.
        remarks: sentences of the study about it.
    """

    study: str
    label: str
    command: str
    metrics: Mapping[str, Any]
    means: Mapping[str, float] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)
    num_seeds: int = 1
    remarks: tuple[str, ...] = ()

    @property
    def teacher_accuracy(self) -> float | None:
        """The teacher's own accuracy on the validation images, 0..1; None where nobody has measured it."""
        return self.metrics.get("teacher_validation_accuracy")


@dataclass(frozen=True)
class CardFacts:
    """Facts of the export itself, for the card.

    Attributes:
        format: of the network.
        compared: the exported network beside the student.
        preprocessing: of its images.
        digest: of the student in the store.
        made_with: package -> version, and the commit of this project.
    """

    format: Format
    compared: LogitComparison
    preprocessing: Preprocessing
    digest: str
    made_with: Mapping[str, str]


def card(config: TrialConfig, origin: StudentOrigin, facts: CardFacts) -> str:
    """Return the card of a student."""
    data, student, teacher = config.data, config.distillation.architecture, config.teacher
    side, metrics = data.image_size_pixels, origin.metrics
    sizes = [
        f"{metrics[key]:,.0f} ({whose})"
        for key, whose in (("deployed_parameters", "student"), ("teacher_parameters", "teacher"))
        if metrics.get(key)
    ]
    method = "" if config.method == "hidfd" else f" by the method {config.method}"
    trained = "" if teacher.train is None else ", which was trained in the same project"
    what = (
        f"A `{student}` that puts images of {side} x {side} pixels ({facts.preprocessing.colours}) into "
        f"{data.num_classes} classes. It was distilled{method} from its teacher, a `{teacher.architecture}`{trained}."
    )
    licence = (
        "Whose the photos and the teacher are, and under which licence, was not stated when this was exported. Their "
        "licences hold for what was learned from them: find them out before you pass this network on."
    )
    parts = [
        f"# {origin.study}: {origin.label}",
        " ".join([what, *(["Parameters: " + ", ".join(sizes) + "."] if sizes else [])]),
        *origin.remarks,
        "## Use",
        _use(facts, data.num_classes),
        "## Numbers",
        "\n".join(_numbers(origin)),
        _teacher_in_words(origin, config),
        "## Limits",
        "\n".join(f"* {sentence}" for sentence in _limits(config, origin)),
        "## Licence",
        licence,
        "## Made by",
        "\n".join(f"* {line}" for line in _made_by(config, origin, facts)),
    ]
    return "\n\n".join(parts) + "\n"


def _use(facts: CardFacts, num_classes: int) -> str:
    file, format_ = NETWORK_FILES[facts.format], facts.format
    channels, side = facts.preprocessing.channels, facts.preprocessing.image_size_pixels
    takes = (
        f"`{file}` ({FORMAT_NAMES[format_]}) takes float32 images in [0, 1], batch x {channels} x {side} x {side} with "
        f"any batch, and gives logits of {num_classes} classes, whose names are in `labels.json` in this order. Mean "
        f"and standard deviation are inside the network. `preprocessing.json` says how a photo becomes such an image."
    )
    if format_ == "safetensors":
        how = (
            "The file has weights alone. Its metadata names the architecture, and what else makes the network. Where "
            "hidfd is installed, `python -m hidfd predict FOLDER PHOTO ...` builds it and classifies photos."
        )
        return f"{takes} {how}"
    wrong = {
        "onnx": "Images that are not in [0, 1] give NaN.",
        "torch": "Images that are not in [0, 1] are an error. It is in eval mode already; do not call `.eval()`.",
    }[format_]
    command = f"    pip install {' '.join(PACKAGES[format_])}\n    python {CLASSIFY} PHOTO ..."
    return f"{command}\n\n{takes} {wrong}"


def _numbers(origin: StudentOrigin) -> Iterator[str]:
    """Yield the lines of the table: mean and sd over the seeds with their n, and this student."""
    yield "| measure | mean ± sd over seeds | n | this student |"
    yield "|---|---|---|---|"
    for measure, name in MEASURED.items():
        own = origin.metrics.get(measure)
        if own is None:
            continue
        mean = origin.means.get(measure)
        over_seeds = NONE if mean is None else percent_with_error(mean, origin.deviations.get(measure))
        error = origin.metrics.get(f"{measure}_standard_error")
        how = percent(own) if error is None else f"{percent_with_error(own, error)} (standard error over the images)"
        yield f"| {name} | {over_seeds} | {origin.num_seeds if mean is not None else 1} | {how} |"


def _teacher_in_words(origin: StudentOrigin, config: TrialConfig) -> str:
    name, accuracy = config.teacher.architecture, origin.teacher_accuracy
    if accuracy is None:
        return f"The teacher (`{name}`): its own accuracy is not known, as there were no labelled images."
    return f"The teacher (`{name}`) is right on {percent(accuracy)} of the validation images itself."


def _limits(config: TrialConfig, origin: StudentOrigin) -> Iterator[str]:
    """Yield what the numbers do not say."""
    metrics, data = origin.metrics, config.data
    yield (
        "Agreement is the share of held-out photos, averaged over the classes, that get the teacher's class. It does "
        "not say how often that class is right: what the teacher gets wrong, the student has learned."
    )
    if metrics.get("validation_accuracy") is None and metrics.get("test_accuracy") is None:
        yield "How often it is right has not been measured: there were no labelled images."
    domain = (
        "holds other images of the teacher's own data set"
        if data.candidates_in_domain
        else "is not said to be of the teacher's own data set"
    )
    yield (
        f"The held-out photos come from the same pool as those that it learned from, which {domain}. Photos of another "
        f"kind may be harder."
    )
    if origin.num_seeds == 1:
        yield "One seed: how much students of other seeds differ is not known."
    calibration = metrics.get("validation_calibration_error")
    known = "was not measured" if calibration is None else f"is {percent(calibration)} on the validation images"
    yield (
        f"Every image gets one of the {data.num_classes} classes, also one that shows none of them. The expected gap "
        f"between confidence and accuracy {known}."
    )


def _made_by(config: TrialConfig, origin: StudentOrigin, facts: CardFacts) -> Iterator[str]:
    yield f"Command: `{origin.command}`"
    yield f"Student: `{facts.digest}`"
    for where, material in materials(config).items():
        yield f"`trial.{where}`: sha256 `{material.sha256}`"
    yield f"Versions: {', '.join(f'{name} {version}' for name, version in facts.made_with.items())}"
    yield f"Checked on {facts.compared.in_words(RUNTIMES[facts.format])}"
