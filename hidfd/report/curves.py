"""Panels of a trial's training curves: which curves share one, and how to read it in one plain sentence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hidfd.report.figures import lines
from hidfd.report.html import Picture


@dataclass(frozen=True)
class Panel:
    """Curves that are read together.

    Attributes:
        title: of the panel.
        curves: metric (without its stage) -> name in the legend.
        caption: how to read it.
        line: a value to compare them with.
    """

    title: str
    curves: Mapping[str, str]
    caption: str
    line: float | None = None


PANELS: dict[str, tuple[Panel, ...]] = {
    "teacher": (
        Panel("Teacher's loss", {"cross_entropy": "cross-entropy"}, "Cross-entropy on augmented training images."),
        Panel("Teacher's accuracy", {"accuracy": "accuracy"}, "Share of augmented training images it gets right."),
    ),
    "generation": (
        Panel(
            "Hinge losses",
            {"hinge_d": "D", "hinge_g": "G"},
            "2 for D means that it cannot tell real from synthetic; towards 0 it wins.",
            2.0,
        ),
        Panel(
            "Scores of D",
            {"score_real": "real", "score_fake": "synthetic"},
            "Mean adversarial score; the further apart the two are, the better D tells real from synthetic.",
        ),
        Panel(
            "Class heads (ADC)",
            {"adc_d": "D", "adc_g": "G"},
            "D sorts real and synthetic images into 2K classes; G's term is a difference of logits, unbounded below.",
        ),
        Panel(
            "Feature integration",
            {"trans": "L_trans", "blend": "L_blend"},
            "Distance of D's regressed features from the teacher's: of the same image (trans), of its partner (blend).",
        ),
        Panel(
            "Frequency smoothing",
            {"reg": "L_reg"},
            "Weighted negative entropy of the classes that the teacher sees; lower is more even.",
        ),
        Panel(
            "Teacher sees the class asked for",
            {"teacher_agreement": "training batches", "label_agreement": "EMA samples"},
            "Share of synthetic images whose class, by the teacher's argmax, is the one that G was asked for.",
        ),
        Panel(
            "Effective classes",
            {"effective_classes": "exp(entropy)"},
            "How many classes the EMA samples fill evenly, as the teacher sees them; a collapse shows here first.",
        ),
        Panel(
            "Density and coverage",
            {"density": "density", "coverage": "coverage"},
            "Against held-out images in the teacher's features: near 1, samples lie where those do and reach all.",
        ),
        Panel(
            "Memorisation",
            {"memorisation": "features", "memorisation_pixels": "pixels"},
            "Share of samples nearer to a collected image than 95 % of unseen images are; 0.05 without copying.",
            0.05,
        ),
        Panel(
            "Teacher's deviation",
            {"teacher_deviation": "deviation"},
            "Of its mean probability over 640 views of EMA samples: published as better where low; low after a "
            "collapse, too.",
        ),
        Panel("Confidence", {"confidence": "confidence"}, "Mean top probability of the teacher on EMA samples."),
    ),
    "distillation": (
        Panel(
            "Student's losses",
            {"feature": "feature", "kl": "KL", "ce": "CE"},
            "On augmented training views, before weighting: distance from the teacher's maps or predictions.",
        ),
        Panel(
            "Noisy labels (DFND)",
            {"noisy_labels": "L_noisy"},
            "Cross-entropy to the teacher's argmax behind the adaptation matrix.",
        ),
        Panel(
            "Generator's losses (DAFL)",
            {"one_hot": "one-hot", "activation": "activation", "entropy": "entropy"},
            "Before weighting: how unsure the teacher is, minus its features' size, minus how even the classes are.",
        ),
        Panel(
            "Rounds of images (CMI)",
            {"statistics": "batch norms", "class": "class", "adversarial": "adversarial", "contrastive": "contrastive"},
            "Mean over the steps of a round, before weighting; the last two depend on the student and on the bank.",
        ),
        Panel(
            "Agreement on the hold-out",
            {"agreement": "agreement"},
            "The objective along the way. It chooses no step: the last one is the result.",
        ),
        Panel(
            "Agreement in training",
            {"batch_agreement": "batches"},
            "Share of training views on which student and teacher name the same class.",
        ),
        Panel(
            "KL to the teacher",
            {"kl_to_teacher": "KL"},
            "On the hold-out, in nats: also counts how sure the student is.",
        ),
    ),
}

HIDDEN_METRICS = (
    "total",
    "inversion",
    "memorisation_standard_error",
    "memorisation_pixels_standard_error",
    "agreement_standard_error",
)
"""Metrics without a panel: sums of what is shown, and errors that are shown beside the final numbers."""


def training_pictures(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Picture]]:
    """Draw the panels of every stage that has curves, in the order of the rows.

    Args:
        rows: of `metrics.jsonl`; keys with a slash are metrics.
    """
    curves: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for key, value in row.items():
            if "/" in key and value is not None:
                curves[row["stage"]][key.split("/", 1)[1]].append((row["images"], value))
    return {stage: _panels(stage, found) for stage, found in curves.items()}


def _panels(stage: str, curves: Mapping[str, list[tuple[float, float]]]) -> list[Picture]:
    pictures, shown = [], set(HIDDEN_METRICS)
    for panel in PANELS.get(stage, ()):
        series = {name: sorted(curves[metric]) for metric, name in panel.curves.items() if metric in curves}
        shown |= panel.curves.keys()
        if any(len(points) > 1 for points in series.values()):  # a single one is among the numbers of the page
            pictures.append(Picture(panel.title, panel.caption, lines(series, panel.line)))
    others = sorted(curves.keys() - shown)
    return pictures + [Picture(name, f"{stage}/{name}.", lines({name: sorted(curves[name])})) for name in others]
