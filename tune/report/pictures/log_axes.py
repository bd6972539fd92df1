"""Marks of logarithmic axes, for figures by Matplotlib and Plotly alike: decades, or round numbers within one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.ticker import MaxNLocator

from hidfd.formatting import short_count

MAX_MARKS = 5
"""The most marks that a small panel has room for."""

MARKS_PER_DECADE: tuple[tuple[float, ...], ...] = ((1, 2, 5), (1, 3), (1, 1.5, 2, 3, 5, 7))
"""Marks within a decade, the first that fit, of a range that has fewer than three powers of ten."""

FEW_MARKS = 3
"""Number of marks from which an axis is readable."""

SMALLEST_DECIMAL = 1e-4
"""Smallest number that is written as a decimal fraction."""

LARGEST_COUNT = 1e9
"""Number from which a label is a power of ten."""

MOST_DIGITS = 9
"""The most significant digits of a label."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NEARLY = 1e-9


def log_marks(low: float, high: float, most: int = MAX_MARKS) -> list[float]:
    """Return where to label a logarithmic axis: at powers of ten, with round numbers between where those are few.

    Args:
        low, high: ends of the range, both positive.
        most: the most marks.
    """
    decades = _marks_between(low, high, (1,))
    if len(decades) >= FEW_MARKS:
        return decades[:: math.ceil(len(decades) / most)]
    for within in MARKS_PER_DECADE:
        found = _marks_between(low, high, within)
        if FEW_MARKS <= len(found) <= most:
            return found
    even = MaxNLocator(most - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    found = [float(value) for value in even if _is_between(value, low, high)]
    return found if low < high and len(found) > 1 else sorted({low, high})


def marks_in_words(marks: Sequence[float]) -> list[str]:
    """Return labels of marks that differ: `0.0001`, `0.05`, `20`, `2.5k`; all as powers of ten if one is very small."""
    if min(marks) < SMALLEST_DECIMAL * (1 - _NEARLY) or max(marks) >= LARGEST_COUNT:
        return _differing(_power_of_ten, marks)
    return _differing(lambda value, digits: short_count(float(f"{value:.{digits}g}")), marks)


def _differing(write: Callable[[float, int], str], marks: Sequence[float]) -> list[str]:
    """Return labels of as few significant digits as tell them from each other, but three if that will do."""
    labels = []
    for digits in range(3, MOST_DIGITS + 1):
        labels = [write(value, digits) for value in marks]
        if len(set(labels)) == len(labels):
            break
    return labels


def _power_of_ten(value: float, digits: int) -> str:
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    factor = f"{float(mantissa):.{digits}g}"
    if int(exponent) == 0:
        return factor
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return power if factor == "1" else f"{factor}·{power}"


def _marks_between(low: float, high: float, within: Sequence[float]) -> list[float]:
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    values = [float(f"{mark}e{decade}") for decade in decades for mark in within]
    return [value for value in values if _is_between(value, low, high)]


def _is_between(value: float, low: float, high: float) -> bool:
    return low * (1 - _NEARLY) <= value <= high * (1 + _NEARLY)
