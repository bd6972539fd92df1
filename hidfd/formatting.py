"""Numbers, durations and paths as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def duration(seconds: float) -> str:
    """Seconds as a human says them: `8.4 s`, `52 s`, `7 min 05 s`, `3 h 20 min`, `12 days`, `4.4 years`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 100 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    days = whole / 86400
    return f"{days:.0f} days" if days < 730 else f"{days / 365.25:.1f} years"


def in_words(metrics: Mapping[str, float], at_most: int | None = None) -> str:
    """`name value` pairs without their stage; a metric with a `_standard_error` beside it reads `value ± error`."""
    words = []
    for name, value in metrics.items():
        short = name.rpartition("/")[2]
        if short in ("images", "seconds") or name.endswith("_standard_error"):
            continue
        error = metrics.get(f"{name}_standard_error")
        words.append(f"{short} {value:.4g}" + ("" if error is None else f" ± {error:.2g}"))
    return ", ".join(words[:at_most])


def percent(value: float | None, digits: int = 1) -> str:
    """A share as `87.4 %`; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None, digits: int = 1) -> str | None:
    """A standard error of a share, in percentage points; None where there is none."""
    return None if value is None else f"{100 * value:.{digits}f}"


def number(value: float) -> str:
    """A count with separators, anything else in four significant digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"


def relative_paths(text: str) -> str:
    """A text with paths below the working directory made relative to it: a page may leave this machine."""
    return text.replace(f"{Path.cwd()}/", "")
