"""The warning where the tasks side by side hold more CPUs than there are."""

import pytest

from tune.engines.environment import crowding_in_words


@pytest.mark.parametrize(("concurrency", "cpus_each", "available"), [(1, 1, 1), (4, 1, 4), (2, 3, 6.0), (1, 8, 4)])
def test_tasks_that_fit_or_run_one_by_one_are_not_warned_of(concurrency: int, cpus_each: int, available: float) -> None:
    assert crowding_in_words(concurrency, cpus_each, available, "this machine") is None


def test_tasks_that_ask_for_more_are_told_how_many_fit() -> None:
    words = crowding_in_words(5, 2, 4.0, "the Ray cluster")
    assert words is not None
    assert words.startswith("study.concurrency: 5 tasks of 2 CPUs ask for 10, and the Ray cluster has 4: more than 2 ")
    assert "more than 1 side by side" in str(crowding_in_words(2, 8, 4.0, "this machine"))
