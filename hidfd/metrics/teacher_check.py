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

CAUSES = (
    "Likely causes: trial.teacher.mean and std for images in 0..255 or of other data, channels swapped (BGR for RGB), "
    "another order of classes than that of the labels, or another architecture than the one it was trained in"
)
"""Reasons for which a good teacher answers badly here."""

LISTED_CLASSES = 3
"""Number of classes that a sentence names."""


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
    """

    num_labelled: int
    accuracy: float | None
    largest_class_share: float | None
    num_candidates: int
    mean_confidence: float
    class_shares: Sequence[float]
    num_not_finite: int

    @property
    def error(self) -> str | None:
        """The reason why nothing can be built on the teacher, in words; None if there is none."""
        if self.num_not_finite:
            return f"its answers to {plural(self.num_not_finite, 'image')} are not finite"
        if self._labels_decide:
            return None if self._is_better_than_guessing else self._guessing_in_words()
        return self._one_class_in_words() if self.num_candidates >= MIN_IMAGES else None

    @property
    def warnings(self) -> list[str]:
        """Oddities that may be right, in words; empty where there is an `error`."""
        if self.error is not None:
            return []
        found = [self._one_class_in_words()]
        if self.num_labelled and not self._is_better_than_guessing:
            found.append(f"{self._guessing_in_words()}, which so few or so unequal labels cannot decide")
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

    def _one_class_in_words(self) -> str | None:
        largest = max(self.class_shares)
        if not largest > MAX_SHARE:
            return None
        name = list(self.class_shares).index(largest)
        return f"it gives {percent(largest)} of {self.num_candidates:,} candidates one class, {name}"
