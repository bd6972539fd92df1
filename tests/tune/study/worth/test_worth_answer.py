"""The answer to when a generator pays says no more than its intervals."""

import pytest

from tests.tune.study.worth.test_equal_cost import difference
from tune.study.worth.answer import answer_in_words
from tune.study.worth.equal_cost import crossings_of

SURE, UNSURE = 0.005, 0.05


def answer(*means: tuple[int, float | None, float | None], num_seeds: int = 3) -> str:
    found = [difference(steps, mean, half, num_seeds) for steps, mean, half in means]
    return answer_in_words(found, crossings_of(found))


def test_crossing_has_its_interval() -> None:
    words = answer((1200, -0.02, SURE), (3600, 0.01, SURE), (10_800, 0.03, SURE))
    assert words == "a generator pays from 2,500 steps on (2,100 to 3,000), n = 3"


def test_crossing_without_a_sure_side_below() -> None:
    words = answer((1200, -0.02, UNSURE), (3600, 0.02, SURE), (10_800, 0.03, SURE))
    assert words == "a generator pays from 2,100 steps on (below 1,200 to 3,000), n = 3"


def test_crossing_downwards() -> None:
    words = answer((1000, 0.02, SURE), (4000, -0.02, SURE))
    assert words == "a generator pays only up to 2,000 steps (1,700 to 2,400), n = 3"


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        (1, "a generator pays at every budget from 1,200 steps to 10,800, n = 3"),
        (-1, "a generator does not pay up to 10,800 steps, n = 3"),
    ],
)
def test_no_crossing(sign: int, words: str) -> None:
    assert answer(*((steps, sign * 0.02, SURE) for steps in (1200, 3600, 10_800))) == words


def test_one_budget_alone() -> None:
    assert answer((1200, 0.02, SURE)) == "a generator pays at every budget from 1,200 steps, n = 3"
    assert answer((1200, 0.02, UNSURE)) == "undecided at 1,200 steps whether a generator pays, n = 3"


def test_intervals_that_contain_0_decide_nothing() -> None:
    words = answer((1200, -0.02, UNSURE), (3600, 0.01, UNSURE), (10_800, 0.03, UNSURE))
    assert words == "undecided up to 10,800 steps whether a generator pays, n = 3"


def test_budgets_that_are_decided_are_told_from_those_that_are_not() -> None:
    words = answer((1200, -0.02, SURE), (3600, -0.01, SURE), (10_800, 0.01, UNSURE))
    assert words == "a generator does not pay at 1,200 and 3,600 steps; it is undecided at 10,800 steps, n = 3"
    words = answer((1200, 0.01, UNSURE), (3600, 0.02, SURE))
    assert words == "a generator pays at 3,600 steps; it is undecided at 1,200 steps, n = 3"


def test_two_crossings_are_no_single_answer() -> None:
    words = answer((1000, -0.02, SURE), (4000, 0.02, SURE), (16_000, -0.02, SURE))
    assert words == ("no single answer: the sign of the difference changes at about 2,000 and about 8,000 steps, n = 3")


def test_one_seed_decides_nothing() -> None:
    words = answer((1000, -0.02, None), (4000, 0.02, None), num_seeds=1)
    assert words == (
        "not decided: hybrid is ahead from 2,000 steps on (n = 1); one seed decides nothing, --seeds 3 says more"
    )
    assert "hybrid is not ahead up to 4,000 steps (n = 1)" in answer(
        (1000, -0.02, None), (4000, 0.0, None), num_seeds=1
    )
    assert "hybrid is ahead from 1,000 steps on (n = 1)" in answer((1000, 0.02, None), (4000, 0.1, None), num_seeds=1)


def test_budget_of_fewer_seeds_is_said() -> None:
    found = [difference(1000, -0.02, SURE), difference(4000, 0.02, SURE, num_seeds=2)]
    assert answer_in_words(found, crossings_of(found)).endswith("(1,700 to 2,400), n = 2 to 3")


def test_nothing_compared_is_said() -> None:
    assert "no budget of hybrid could be compared" in answer((1000, None, None))
