"""What a run tells while it goes on, in words."""

import pytest

from hidfd.formatting import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (8.4, "8.4 s"),
        (52, "52 s"),
        (425, "7 min 05 s"),
        (12_000, "3 h 20 min"),
        (1_036_800, "12 days"),
        (138_000_000, "4.4 years"),
    ],
)
def test_duration_is_said_as_a_human_says_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words
