"""The check of a teacher before anything is built on it: what it answers, and whether a sound network can do so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hidfd.formatting import percent, plural

MIN_IMAGES = 100
"""Number of labelled images, or of candidates, from which a check can end in an error."""

MAX_SHARE = 0.95
"""Share of one class among the candidates above which a teacher without labels is refused."""

USUAL_SHARE = 0.5
"""Share of one class among the candidates up to which nothing is said, where there are many classes."""

EQUAL_SHARES = 4
"""Multiple of an equal share up to which nothing is said, where there are few classes."""

UNUSED_SHARE = 1 / 3
"""Share of the classes that may be given to no candidate before that is said."""

CANDIDATES_PER_CLASS = 20
"""Number of candidates for each class from which classes that none is given count."""

OVERCONFIDENCE = 0.3
"""Difference of mean confidence and accuracy above which the two do not belong together."""

GAIN_OF_ANOTHER_ORDER = 0.3
"""Gain in accuracy from which another order of the labels is taken for the right one."""

LABELLED_PER_CLASS = 10
"""Number of labelled images for each class from which another order of the labels can be seen."""

CAUSES = (
    "Likely causes: trial.teacher.mean and std for images in 0..255 or of other data, channels swapped (BGR for RGB), "
    "images inverted or of another kind, another order of classes than that of the labels, or another architecture "
    "than the one it was trained in"
)
"""Reasons for which a good teacher answers badly here."""

LISTED_CLASSES = 3
"""Number of classes that a sentence names."""

LISTED_LABELS = 10
"""Number of labels of which a sentence says whose class they are."""


@dataclass(frozen=True)
class TeacherCheck:
    """The answers of a teacher in numbers.

    Attributes:
        num_labelled: number of labelled validation images, 0 without a labelled split.
        accuracy: on them, from 0 to 1; None without.
        largest_class_share: share of the most frequent label; None without.
        num_candidates: number of candidates that it was asked about.
        mean_confidence: mean probability of its own class for a candidate.
        class_shares: share of the candidates that it gives each class, K values.
        num_not_finite: number of images for which an answer is infinite or not a number.
        best_order: the class that the teacher gives the images of label 0, 1, ...; None without labels.
        best_order_accuracy: accuracy if the labels meant these classes; None without.
    """

    num_labelled: int
    accuracy: float | None
    largest_class_share: float | None
    num_candidates: int
    mean_confidence: float
    class_shares: Sequence[float]
    num_not_finite: int
    best_order: Sequence[int] | None = None
    best_order_accuracy: float | None = None

    @property
    def error(self) -> str | None:
        """The reason why nothing can be built on the teacher, in words; None if there is none."""
        if self.num_not_finite:
            return f"its answers to {plural(self.num_not_finite, 'image')} are not finite"
        if self._labels_decide:
            if self._is_better_than_guessing:
                return None
            return self._another_order_in_words() or self._guessing_in_words()
        return self._one_class_in_words() if self.num_candidates >= MIN_IMAGES else None

    @property
    def causes(self) -> str:
        """The likely causes of an error or a warning, as a sentence after it; empty where it names its own."""
        return "" if self._another_order_in_words() is not None else f". {CAUSES}"

    @property
    def warnings(self) -> list[str]:
        """Oddities that may be right, in words; empty where there is an `error`."""
        if self.error is not None:
            return []
        found = [self._one_class_in_words() or self._few_classes_in_words()]
        if (another := self._another_order_in_words()) is not None:
            found.append(another)
        elif self.num_labelled and not self._is_better_than_guessing:
            found.append(f"{self._guessing_in_words()}, which so few or so unequal labels cannot decide")
        else:
            found.append(self._overconfidence_in_words())
        return [text for text in found if text is not None]

    def in_words(self, class_names: Sequence[str]) -> str:
        """Return the numbers in a sentence.

        Args:
            class_names: K names; empty = numbers.
        """
        names = class_names or [f"class {k}" for k in range(len(self.class_shares))]
        right = "no labelled validation images to measure its accuracy on"
        if self.accuracy is not None and self.largest_class_share is not None:
            right = (
                f"{percent(self.accuracy)} accuracy on {self.num_labelled:,} validation images (their largest class: "
                f"{percent(self.largest_class_share)})"
            )
        order = sorted(range(len(self.class_shares)), key=lambda k: -self.class_shares[k])[:LISTED_CLASSES]
        largest = ", ".join(f"{names[k]} {percent(self.class_shares[k])}" for k in order)
        unused = sum(share == 0 for share in self.class_shares)
        never = f"; {unused} of {len(self.class_shares)} classes never" if unused else ""
        return (
            f"teacher: {right}; on {plural(self.num_candidates, 'candidate')} mean confidence "
            f"{percent(self.mean_confidence)}, "
            f"most often {largest}{never}"
        )

    @property
    def _bound(self) -> float:
        """Accuracy that guessing the largest class does not exceed, by two standard errors."""
        share = self.largest_class_share or 0.0
        return share + 2 * math.sqrt(share * (1 - share) / max(1, self.num_labelled))

    @property
    def _labels_decide(self) -> bool:
        return self.num_labelled >= MIN_IMAGES and self._bound < 1

    @property
    def _is_better_than_guessing(self) -> bool:
        return self.accuracy is not None and self.accuracy > self._bound

    def _guessing_in_words(self) -> str:
        return (
            f"its accuracy on {self.num_labelled:,} labelled images is {percent(self.accuracy)}, and always guessing "
            f"their largest class gives {percent(self.largest_class_share)} (by chance up to {percent(self._bound)})"
        )

    def _another_order_in_words(self) -> str | None:
        if self.best_order is None or self.best_order_accuracy is None or self.accuracy is None:
            return None
        needed = max(MIN_IMAGES, LABELLED_PER_CLASS * len(self.best_order))
        if self.num_labelled < needed or self.best_order_accuracy < self.accuracy + GAIN_OF_ANOTHER_ORDER:
            return None
        moved = [f"{label} -> {k}" for label, k in enumerate(self.best_order) if label != k]
        more = ", ..." if len(moved) > LISTED_LABELS else ""
        return (
            f"its accuracy on {self.num_labelled:,} labelled images is {percent(self.accuracy)}, and would be "
            f"{percent(self.best_order_accuracy)} with the labels in another order: "
            f"{', '.join(moved[:LISTED_LABELS])}{more} (label -> class of the teacher); give the names of the classes "
            "in the order of its outputs: trial.data.class_names"
        )

    def _few_classes_in_words(self) -> str | None:
        num_classes, largest = len(self.class_shares), max(self.class_shares)
        name = list(self.class_shares).index(largest)
        if largest > min(MAX_SHARE, max(USUAL_SHARE, EQUAL_SHARES / num_classes)):
            return f"it gives {percent(largest)} of {self.num_candidates:,} candidates one class, {name}"
        unused = sum(share == 0 for share in self.class_shares)
        if self.num_candidates >= CANDIDATES_PER_CLASS * num_classes and unused > UNUSED_SHARE * num_classes:
            return f"it gives none of {self.num_candidates:,} candidates one of {unused} of its {num_classes} classes"
        return None

    def _overconfidence_in_words(self) -> str | None:
        """Return that so confident a teacher would be right more often, or None where chance may explain it."""
        expected = self.mean_confidence - OVERCONFIDENCE
        if self.accuracy is None or not 0 < expected < 1:
            return None
        if self.accuracy >= expected - 2 * math.sqrt(expected * (1 - expected) / self.num_labelled):
            return None
        return (
            f"its accuracy on {plural(self.num_labelled, 'labelled image')} is {percent(self.accuracy)}, far below its "
            f"mean confidence of {percent(self.mean_confidence)}"
        )

    def _one_class_in_words(self) -> str | None:
        largest = max(self.class_shares)
        if not largest > MAX_SHARE:
            return None
        name = list(self.class_shares).index(largest)
        return f"it gives {percent(largest)} of {self.num_candidates:,} candidates one class, {name}"


def best_order(counts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the class that each label seems to mean: the pair with the most images first, each class once.

    Args:
        counts: `K x K`; row = label, column = the class that the teacher gives its images.
    """
    # Ties fall to the pairs on the diagonal, so that labels without images stay where they are.
    pairs = [(-n, label != k, label, k) for label, row in enumerate(counts) for k, n in enumerate(row)]
    order: dict[int, int] = {}
    taken: set[int] = set()
    for _, _, label, k in sorted(pairs):
        if label not in order and k not in taken:
            order[label] = k
            taken.add(k)
    return tuple(order[label] for label in range(len(counts)))
