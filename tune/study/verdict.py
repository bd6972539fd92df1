"""The verdict: the lead of the best finalist over the second one and its controls, with the error of each difference.

**Seeds.** Every row of the comparison is trained on the same fresh seeds, so rows are compared seed by seed: each of
the R x n numbers is taken as row + seed + noise. What is left after the means of rows and of seeds are taken out gives
one variance for all rows,

    s^2 = sum_ij (y_ij - y_i. - y_.j + y_..)^2 / ((R - 1) (n - 1)),

and the mean difference of two rows has the 95 % interval  d ± t(0.975, (R - 1)(n - 1)) * sqrt(2 s^2 / n).  With two
rows this is the paired t-test. More rows add degrees of freedom, which three seeds hardly have; the price is that all
rows are taken to scatter alike, and a row that scatters more widens every interval. Each interval is at 95 % by itself:
nothing is corrected for their number. One seed leaves no degree of freedom, and so no interval. An accuracy on m images
is a multiple of 1 / m, so s^2 is at least 1 / (12 m^2): two seeds that happen to differ by the same number of images do
not make a difference certain.

**Images.** All seeds are measured on the same images, so an error of these stays however many seeds there are. It is
shown beside the interval, and not part of it. The two rows are measured on the same images, where they mostly fail
together, so they are compared image by image: with d_i the mean over seeds of (answer of the one - answer of the
other) to image i, 1 for right and 0 for wrong, it is 1.96 * sd(d) / sqrt(m) over m images; for agreement, a mean over C
classes, 1.96 * sqrt(sum_c var_c(d) / n_c) / C. Rows that answer every image alike have none. Where answers to single
images are not there (of older versions, or of a student that the search had trained) or are not to the same images, it
is an upper bound: 1.96 * sqrt(p (1 - p) / m + q (1 - q) / m) for accuracies p and q, as if on different ones.

**Source**: a randomised block design with seeds as blocks (Fisher 1935; Montgomery, Design and Analysis of Experiments,
4.1); the binomial error of an accuracy with Laplace's p = (k + 1) / (m + 2), so that 100 % has one as well.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterator, Sequence

from hidfd.formatting import percent, plural
from hidfd.metrics.answers import paired_error
from tune.study.snapshot import GainSnapshot, RowSnapshot
from tune.study.states import Standing

LEVEL = 0.95
"""Probability with which an interval contains the true difference."""

NORMAL_QUANTILE = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Half-width in standard errors of an interval at `LEVEL` over many images: 1.96."""

ROUNDING = 1e-9
"""Difference of two shares that float errors may make."""


def gains_of(rows: Sequence[RowSnapshot], objective: str, *, has_ended: bool = False) -> tuple[GainSnapshot, ...]:
    """Hold the best finalist against the second one and each control; empty until all of these have their numbers.

    The metric is validation accuracy if there are labels, which the search has not seen unless it asked for them, else
    the objective. Where a row lacks the number of a seed, that seed is left out for this pair.

    Args:
        rows: of the comparison.
        objective: of the study.
        has_ended: whether no number is to come any more: rows are then taken with the seeds that they have.
    """
    finalist = best_finalist(rows, objective)
    controls = [row for row in rows if row.role == "control" and row.keys]  # others cannot be built
    if finalist is None or (not has_ended and any(row.num_complete < len(row.keys) for row in controls)):
        return ()
    metric = compared_metric(finalist, objective)
    finalists = [row for row in rows if row.role == "finalist" and row is not finalist and objective in row.means]
    second = max(finalists, key=lambda row: row.means[objective], default=None)
    beside = [*([second] if second else []), *controls]
    gains = (_gain(finalist, other, rows, metric) for other in beside)
    return tuple(gain for gain in gains if gain is not None)


def verdict_in_words(gains: Sequence[GainSnapshot], rows: Sequence[RowSnapshot]) -> str | None:
    """Say in a sentence by how much the best finalist is ahead or behind; None as long as there is nothing to say.

    Args:
        gains: as `gains_of` returns them.
        rows: of the comparison.
    """
    if not gains:
        return None
    first = gains[0]
    is_open = all(gain.standing == "open" for gain in gains)
    usual = max(gains, key=lambda gain: gain.num_seeds)
    parts = [gain_in_words(gain) + _on_fewer_seeds(gain, usual) for gain in gains]
    levels = ", ".join(f"{100 * gain.other_value:.1f}" for gain in gains)
    begin = "not yet decided (n = 1), --seeds 3 says more: " if is_open else ""
    words = f"{begin}{first.name} {', '.join(parts)}" + ("" if is_open else f" (n = {usual.num_seeds})")
    words += f": {first.metric.replace('_', ' ')} {percent(usual.value)} against {levels}"
    return "; ".join([words, *_further(gains, rows)])


def gain_in_words(gain: GainSnapshot) -> str:
    """Say in percentage points how far a row is ahead of another: `+3.1 over real-only [1.2, 5.0] (images ± 2.8)`."""
    signed = f"{round(100 * gain.gain, 1) + 0.0:+.1f}"
    images = "" if gain.image_error is None else f" (images ± {100 * gain.image_error:.1f})"
    if gain.low is None or gain.high is None:
        return f"{signed} over {gain.other}{images}"
    low, high = 100 * gain.low, 100 * gain.high
    if gain.standing == "lost":
        return f"lost to {gain.other} by {-100 * gain.gain:.1f} {interval_in_words(-high, -low)}{images}"
    if gain.standing == "undecided":
        return f"not separable from {gain.other}: {signed} {interval_in_words(low, high)}{images}"
    return f"{signed} over {gain.other} {interval_in_words(low, high)}{images}"


def parts_of(verdict: str, gains: Sequence[GainSnapshot]) -> Iterator[tuple[str, Standing | None]]:
    """Split a verdict after each gain and its comma: yield a piece of text, and the standing in it."""
    rest = verdict
    for gain in gains:
        before, words, after = rest.partition(gain_in_words(gain))
        if words:
            rest = after.lstrip(",:")
            yield before, None
            yield words + after.removesuffix(rest), gain.standing
    yield rest, None


def best_finalist(rows: Sequence[RowSnapshot], objective: str) -> RowSnapshot | None:
    """Return the feasible finalist of the highest mean over the fresh seeds; None while none has all its numbers.

    A finalist that lacks the number of a seed is passed over: its mean is over other seeds than those of the others.
    """
    finalists = [row for row in rows if row.role == "finalist" and row.feasible]
    whole = [row for row in finalists if row.num_complete == len(row.keys) and objective in row.means]
    return max(whole, key=lambda row: row.means[objective], default=None)


def best_row(rows: Sequence[RowSnapshot], objective: str) -> RowSnapshot | None:
    """Return the row of the highest mean, whatever its role, of those that have all numbers; None without two rows.

    The metric is that of the verdict. A finalist that misses a constraint is left out; controls have to meet none.
    """
    judged = [row for row in rows if row.feasible or row.role != "finalist"]
    whole = [row for row in judged if row.keys and row.num_complete == len(row.keys)]
    has_labels = any("validation_accuracy" in row.means for row in whole)
    metric = "validation_accuracy" if has_labels else objective
    measured = [row for row in whole if metric in row.means] if len(rows) > 1 else []
    return max(measured, key=lambda row: row.means[metric], default=None)


def compared_metric(row: RowSnapshot, objective: str) -> str:
    """Return the metric by which a row is held against others: validation accuracy where it has one."""
    return "validation_accuracy" if "validation_accuracy" in row.means else objective


def residual_variance(numbers: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Compute the variance that the means of rows and columns leave unexplained, and its degrees of freedom.

    Args:
        numbers: R x n, a row for each setting and a column for each seed.

    Returns:
        The variance (0 without degrees of freedom) and (R - 1)(n - 1).
    """
    by_row = [statistics.fmean(row) for row in numbers]
    by_seed = [statistics.fmean(column) for column in zip(*numbers, strict=True)]
    whole = statistics.fmean(by_row)
    squares = math.fsum(
        (number - of_row - of_seed + whole) ** 2
        for row, of_row in zip(numbers, by_row, strict=True)
        for number, of_seed in zip(row, by_seed, strict=True)
    )
    degrees = (len(by_row) - 1) * (len(by_seed) - 1)
    return (squares / degrees if degrees else 0.0), degrees


@functools.cache
def t_quantile(degrees_of_freedom: int) -> float:
    """Return the factor of a two-sided interval at `LEVEL`: 12.7 for 1 degree of freedom, 2.78 for 4, 1.96 for many."""
    from scipy.special import stdtrit  # half a second, which only a comparison over seeds costs; scipy.stats takes two

    return float(stdtrit(degrees_of_freedom, (1 + LEVEL) / 2))


def _gain(finalist: RowSnapshot, other: RowSnapshot, rows: Sequence[RowSnapshot], metric: str) -> GainSnapshot | None:
    """Return the gain over another row; None where the two have no seed in common."""
    pairs = zip(finalist.values.get(metric, ()), other.values.get(metric, ()), strict=False)
    seeds = [number for number, pair in enumerate(pairs) if None not in pair]
    if not seeds:
        return None
    columns: dict[tuple[str, ...], list[float]] = {}  # the same students may stand in two rows: they count once
    for row in rows:
        values = row.values.get(metric, ())
        numbers = [values[seed] for seed in seeds if seed < len(values)]
        known = [number for number in numbers if number is not None]
        if len(known) == len(seeds):
            columns[row.keys] = known
    value, other_value = (statistics.fmean(columns[row.keys]) for row in (finalist, other))
    variance, degrees = residual_variance(list(columns.values()))
    num_images = finalist.means.get("validation_images") if metric == "validation_accuracy" else None
    if num_images:
        variance = max(variance, 1 / (12 * num_images**2))
    paired = _paired_image_error(finalist, other, metric, seeds)
    gain, half = value - other_value, None
    if degrees:
        half = t_quantile(degrees) * math.sqrt(2 * variance / len(seeds))
    return GainSnapshot(
        name=finalist.name,
        other=other.name,
        role=other.role,
        metric=metric,
        value=value,
        other_value=other_value,
        gain=gain,
        num_seeds=len(seeds),
        degrees_of_freedom=degrees,
        low=None if half is None else gain - half,
        high=None if half is None else gain + half,
        image_error=_image_error(finalist, other, metric, num_images) if paired is None else paired,
        num_images=None if num_images is None else round(num_images),
        standing=_standing(gain, half),
        is_paired=paired is not None,
    )


def _standing(gain: float, half_width: float | None) -> Standing:
    if half_width is None:
        return "open"
    if abs(gain) <= max(half_width, ROUNDING):
        return "undecided"
    return "won" if gain > 0 else "lost"


def _paired_image_error(finalist: RowSnapshot, other: RowSnapshot, metric: str, seeds: Sequence[int]) -> float | None:
    """Return the half-width of a difference's interval over images, image by image; None where answers are not there.

    Args:
        seeds: indices of the seeds that both rows have.
    """
    answers, others = finalist.answers.get(metric, ()), other.answers.get(metric, ())
    pairs = [(a, b) for seed, (a, b) in enumerate(zip(answers, others, strict=False)) if seed in seeds and a and b]
    error = paired_error(pairs) if len(pairs) == len(seeds) else None
    return None if error is None else NORMAL_QUANTILE * error


def _image_error(finalist: RowSnapshot, other: RowSnapshot, metric: str, num_images: float | None) -> float | None:
    """Return an upper bound of that half-width, without answers; None where nothing tells how many images there are.

    A mean over seeds varies with the images at most as much as one student does, since all seeds see the same images.
    """
    if num_images:
        shares = [
            (row.means[metric] * num_images + 1) / (num_images + 2) for row in (finalist, other) if metric in row.means
        ]
        return NORMAL_QUANTILE * math.sqrt(sum(share * (1 - share) for share in shares) / num_images)
    errors = [row.means.get(f"{metric}_standard_error") for row in (finalist, other)]
    known = [error for error in errors if error is not None]
    return NORMAL_QUANTILE * math.hypot(*known) if len(known) == len(errors) else None


def _on_fewer_seeds(gain: GainSnapshot, usual: GainSnapshot) -> str:
    """Return what sets a gain over fewer seeds apart from the others: its own seeds and degrees of freedom."""
    if gain.num_seeds == usual.num_seeds:
        return ""
    if gain.standing == "open":
        return f" (not yet decided: only {gain.num_seeds} of {usual.num_seeds} seeds)"
    return f" (only {gain.num_seeds} of {usual.num_seeds} seeds, {gain.degrees_of_freedom} df)"


def _further(gains: Sequence[GainSnapshot], rows: Sequence[RowSnapshot]) -> Iterator[str]:
    """Yield the teacher's accuracy, what the intervals are, whether images are too few, and rows without a number."""
    first = gains[0]
    if first.metric == "validation_accuracy":
        teachers = (row.means.get("teacher_validation_accuracy") for row in rows)
        teacher = next((accuracy for accuracy in teachers if accuracy is not None), None)
        if teacher is not None:
            yield f"the teacher's is {percent(teacher)}"
    degrees = max(gains, key=lambda gain: gain.num_seeds).degrees_of_freedom
    if degrees:
        freedom = plural(degrees, "degree of freedom", "degrees of freedom")
        yield f"in brackets: 95 % over seeds, paired, {freedom}"
    images = "the hold-out images" if first.num_images is None else f"{first.num_images:,} validation images"
    if any(gain.image_error is not None for gain in gains):
        words = f"images: the 95 % error that {images} leave by themselves, {_how_measured(gains)}"
        unsure = [gain.other for gain in gains if gain.image_error is not None and abs(gain.gain) <= gain.image_error]
        from_whom = "any of these" if len(unsure) == len(gains) > 1 else ", ".join(unsure)
        yield words + (f", too few to tell {first.name} from {from_whom}" if unsure else "")
    compared = {gain.other for gain in gains}
    silent = [row.name for row in rows if row.role == "control" and row.keys and row.name not in compared]
    if silent:
        yield f"no number of {', '.join(silent)} to compare with"


def _how_measured(gains: Sequence[GainSnapshot]) -> str:
    """Say how the errors over images were measured."""
    bounds = [gain.other for gain in gains if gain.image_error is not None and not gain.is_paired]
    if not bounds:
        return "paired"
    return "at most" if not any(gain.is_paired for gain in gains) else f"paired (at most, for {', '.join(bounds)})"


def interval_in_words(low: float, high: float) -> str:
    """Return an interval in percentage points: `[1.2, 5.0]`."""
    return f"[{round(low, 1) + 0.0:.1f}, {round(high, 1) + 0.0:.1f}]"  # + 0.0: none is written as -0.0
