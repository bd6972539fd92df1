"""The answer to when a generator pays, in a sentence that says no more than its intervals."""

from __future__ import annotations

from collections.abc import Sequence

from hidfd.formatting import plural
from tune.study.snapshot import CostDifferenceSnapshot, CrossingSnapshot, WorthSnapshot
from tune.study.states import Standing

NOTHING_COMPARED = "when a generator pays stays open: no budget of hybrid could be compared at equal total cost"


def standing_of(difference: CostDifferenceSnapshot) -> Standing:
    """Return whether the interval excludes 0, and on which side; `open` on one seed or none."""
    if difference.low is None or difference.high is None:
        return "open"
    return "won" if difference.low > 0 else "lost" if difference.high < 0 else "undecided"


def cost_in_words(cost: float) -> str:
    """Return a number of CPU- or GPU-seconds, to two digits at least."""
    return f"{cost:,.0f}" if cost >= 9.95 else f"{cost:.2g}"


def answer_in_words(differences: Sequence[CostDifferenceSnapshot], crossings: Sequence[CrossingSnapshot]) -> str:
    """Say from how many student steps on a generator pays.

    Args:
        differences: at each budget of hybrid, in ascending order.
        crossings: of their means, in ascending order.
    """
    known = [difference for difference in differences if difference.mean is not None]
    if not known:
        return NOTHING_COMPARED
    counts = sorted({difference.num_seeds for difference in known})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    if all(standing_of(difference) == "open" for difference in known):
        return f"{_by_the_means(known, crossings)} ({n}); one seed decides nothing, --seeds 3 says more"
    return f"{_by_the_intervals(known, crossings)}, {n}"


def crossing_in_words(crossing: CrossingSnapshot, worth: WorthSnapshot) -> str:
    """Name a crossing, with its interval where seeds give one: `crossing at 2,400 steps (1,900 to 3,600)`."""
    differences = [budget.difference for budget in worth.budgets if budget.difference is not None]
    known = [difference for difference in differences if difference.mean is not None]
    words = f"crossing at {_steps(crossing.steps)}"
    return words if all(standing_of(one) == "open" for one in known) else f"{words} ({_interval(crossing, known)})"


def _on_some_seeds(difference: CostDifferenceSnapshot) -> Standing:
    """Return the standing of a difference beside others that have an interval: without one it is undecided."""
    standing = standing_of(difference)
    return "undecided" if standing == "open" else standing


def _by_the_intervals(known: Sequence[CostDifferenceSnapshot], crossings: Sequence[CrossingSnapshot]) -> str:
    standings = [_on_some_seeds(difference) for difference in known]
    first, last = known[0].steps, known[-1].steps
    if not {"won", "lost"}.intersection(standings):
        up_to = f"up to {_steps(last)}" if len(known) > 1 else f"at {_steps(last)}"
        return f"undecided {up_to} whether a generator pays"
    if len(crossings) > 1:
        where = _listed([f"about {_round(crossing.steps)}" for crossing in crossings])
        return f"no single answer: the sign of the difference changes at {where} steps"
    if set(standings) == {"won"}:
        return f"a generator pays at every budget from {_steps(first)}{f' to {_round(last)}' if last > first else ''}"
    if set(standings) == {"lost"}:
        return f"a generator does not pay up to {_steps(last)}"
    if crossings and standings[-1] == ("won" if crossings[0].pays_beyond else "lost"):
        (crossing,) = crossings
        where = f"{_steps(crossing.steps)}{' on' if crossing.pays_beyond else ''} ({_interval(crossing, known)})"
        return f"a generator pays from {where}" if crossing.pays_beyond else f"a generator pays only up to {where}"
    parts: list[str] = []
    for wanted, words in (("won", "pays at"), ("lost", "does not pay at"), ("undecided", "it is undecided at")):
        at = [difference for difference, standing in zip(known, standings, strict=True) if standing == wanted]
        if at:
            whom = "" if wanted == "undecided" else "a generator " if not parts else ""
            numbers = _listed([_round(difference.steps) for difference in at])
            parts.append(f"{whom}{words} {numbers} {'step' if numbers == '1' else 'steps'}")
    return "; ".join(parts)


def _by_the_means(known: Sequence[CostDifferenceSnapshot], crossings: Sequence[CrossingSnapshot]) -> str:
    if len(crossings) > 1:
        where = _listed([f"about {_round(crossing.steps)}" for crossing in crossings])
        return f"not decided: the sign of the difference changes at {where} steps"
    if crossings:
        side = "from" if crossings[0].pays_beyond else "only up to"
        on = " on" if crossings[0].pays_beyond else ""
        return f"not decided: hybrid is ahead {side} {_steps(crossings[0].steps)}{on}"
    if (known[0].mean or 0.0) > 0:
        return f"not decided: hybrid is ahead from {_steps(known[0].steps)} on"
    return f"not decided: hybrid is not ahead up to {_steps(known[-1].steps)}"


def _interval(crossing: CrossingSnapshot, known: Sequence[CostDifferenceSnapshot]) -> str:
    """Return the interval of a crossing: `1,900 to 3,600`, or `below 1,200 to 3,600` where it has no such end."""
    low = f"below {_round(known[0].steps)}" if crossing.low is None else _round(crossing.low)
    high = f"beyond {_round(known[-1].steps)}" if crossing.high is None else _round(crossing.high)
    return f"{low} to {high}"


def _steps(steps: float) -> str:
    return plural(int(_round(steps).replace(",", "")), "step")


def _round(steps: float) -> str:
    """Return a whole number of steps, to two significant digits where it was interpolated."""
    if steps == int(steps):
        return f"{int(steps):,}"
    return f"{int(float(f'{steps:.2g}')):,}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
