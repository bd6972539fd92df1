"""Numbers, durations, sizes and paths as people read them: the one place for all three packages.

A count that may be one goes through `plural`; one that never is needs no function: `f"{images:,} images"`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

NONE = "–"
"""The dash where there is no number."""


def number(value: float | None, digits: int = 4) -> str:
    """A whole number in full with its thousands grouped, any other one in `digits` significant digits; else a dash."""
    if value is None:
        return NONE
    return grouped(value) if float(value).is_integer() and abs(value) >= 1 else f"{value:.{digits}g}"


def grouped(value: float) -> str:
    """A number rounded to a whole one, with its thousands grouped: `12,340`."""
    return f"{value:,.0f}"


def short_count(value: float) -> str:
    """A count for the axis of a chart: 32,000 as `32k`, 2,400,000 as `2.4M`."""
    for scale, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:g}{unit}"
    return f"{value:g}"


def plural(count: float, noun: str, plural_noun: str | None = None) -> str:
    """A count with its noun: `1 student`, `3 students`, `0.5 GPUs`; `plural_noun` for `3 entries` or `3 trials are`."""
    return f"{f'{count:,}' if isinstance(count, int) else f'{count:g}'} {_noun(count, noun, plural_noun)}"


def part_of(count: int, total: int, noun: str, plural_noun: str | None = None) -> str:
    """A part of a number of things: `1 of 3 students`, `0 of 1 student`."""
    return f"{count:,} of {plural(total, noun, plural_noun)}"


def _noun(count: float, noun: str, plural_noun: str | None) -> str:
    return noun if count == 1 else plural_noun or f"{noun}s"


def near_match(word: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """The known word that a mistyped one most resembles, if any does; other numbers make another word, not a typo."""
    numbers = re.findall(r"\d+", word)
    same = [candidate for candidate in known if re.findall(r"\d+", candidate) == numbers]
    return next(iter(difflib.get_close_matches(word, same, n=1, cutoff=similarity)), None)


def meant_or_known(word: str, known: Collection[str]) -> str:
    """A hint at the known word that was probably meant, or else at all of them: `did you mean x?`, `known: x, y`."""
    near = near_match(word, known)
    return f"did you mean {near}?" if near is not None else f"known: {', '.join(known) or 'none'}"


def listed(noun: str, numbers: Collection[int]) -> str:
    """Numbers after their noun: `trial 7`, `trials 1, 2`."""
    return f"{noun}{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def ordinal(rank: int) -> str:
    """The ordinal of a positive whole number: `1st`, `2nd`, `3rd`, `11th`, `22nd`."""
    is_teen = 10 < rank % 100 < 20
    return f"{rank}{'th' if is_teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(rank % 10, 'th')}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 0..1 as `87.4 %`; a dash where there is none."""
    return NONE if share is None else f"{100 * share:.{digits}f} %"


def points(share: float | None, digits: int = 1) -> str | None:
    """The standard error of a share in percentage points: `0.9`; None where there is none."""
    return None if share is None else f"{100 * share:.{digits}f}"


def percent_with_error(share: float | None, error: float | None) -> str:
    """A share of 0..1 with its standard error: `87.4 ± 0.9 %`; without one as `percent` writes it."""
    if share is None or error is None:
        return percent(share)
    return f"{100 * share:.1f} ± {100 * error:.1f} %"


def setting(value: Any) -> str:
    """The value of a setting in a sentence: `none`, `on`, `off`, a number, or the text itself."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return number(value) if isinstance(value, int | float) else str(value)


def short_setting(value: Any, digits: int = 3) -> str:
    """The value of a setting in a narrow column: floats in few digits, others as Python writes them; None is empty."""
    if value is None:
        return ""
    return number(value, digits) if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """A time span: `8.4 s`, `52 s`, `7 min 05 s`, `3 h 20 min`, `12 days`, `4.4 years`."""
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


def duration_range(expected: float, low: float, high: float) -> str:
    """An expected time span in seconds with its bounds: `7 min 05 s (5 min 00 s to 12 min 30 s)`."""
    return f"{duration(expected)} ({duration(low)} to {duration(high)})"


def clock_tick(seconds: int) -> str:
    """A mark on a time axis in the largest unit that is exact: `90 s`, `5 min`, `2 h`."""
    if seconds < 60 or seconds % 60:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 3600 or seconds % 3600 else f"{seconds // 3600} h"


def progress(
    images: int,
    target_images: int | None = None,
    images_per_second: float | None = None,
    seconds_left: float | None = None,
) -> str:
    """The progress of a loop: `3,200 of 24,000 images  310 images/s  1 min 07 s left`, as far as it is known."""
    words = f"{images:,}" + (f" of {target_images:,}" if target_images else "") + " images"
    if images_per_second is not None and seconds_left is not None:
        words += f"  {grouped(images_per_second)} images/s  {duration(seconds_left)} left"
    return words


def used_of(used: float, limit: float, unit: str, digits: int = 3) -> str:
    """The used part of a budget, in hours or money: `1.25 of 8 CPU-hours`, `3 of 20 EUR`."""
    return f"{used:.{digits}g} of {limit:g} {unit}"


def size(num_bytes: float) -> str:
    """The size of a file or folder in decimal units: `310 kB`, `12.4 MB`, `1.5 GB`."""
    unit, scale = next((known for known in (("GB", 1e9), ("MB", 1e6)) if num_bytes >= known[1]), ("kB", 1e3))
    return f"{num_bytes / scale:.3g} {unit}"


def memory_size(num_bytes: float) -> str:
    """An amount of memory in binary units, as torch and nvidia-smi give it: `0.3 MiB`, `310 MiB`, `2.00 GiB`."""
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.2f} GiB"
    return f"{num_bytes / 2**20:.{0 if num_bytes >= 10 * 2**20 else 1}f} MiB"


def metrics_in_words(metrics: Mapping[str, float], at_most: int | None = None) -> str:
    """`name value` pairs without their stage; a metric with a `_standard_error` beside it as `name value ± error`."""
    words = []
    for name, value in metrics.items():
        short = name.rpartition("/")[2]
        if short in ("images", "seconds") or name.endswith("_standard_error"):
            continue
        error = metrics.get(f"{name}_standard_error")
        words.append(f"{short} {value:.4g}" + ("" if error is None else f" ± {error:.2g}"))
    return ", ".join(words[:at_most])


def relative_paths(text: str) -> str:
    """A text whose paths below the working directory are relative to it, since a page may leave this machine."""
    return text.replace(f"{Path.cwd()}/", "")


def plain(name: str) -> str:
    """Return a file name for a line on a terminal: what cannot be printed is replaced."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in name)
