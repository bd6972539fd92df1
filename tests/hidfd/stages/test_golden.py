"""The numbers of a stage change only with its VERSION, so that no artifact is reused that the code would not make."""

import copy
from typing import Any

import pytest

from hidfd.pipeline.graph import VERSIONS
from tests.hidfd.stages.golden.comparison import complaint, read
from tests.hidfd.stages.golden.runs import STAGES, compute

GOLDEN: dict[str, Any] = {"version": 3, "numbers": {"curve": [{"loss": 0.5}], "count": 7}}


@pytest.mark.parametrize("stage", STAGES)
def test_numbers_of_a_stage_stay_as_long_as_its_version(stage: str) -> None:
    text = complaint(stage, read(stage), VERSIONS[stage], compute(stage))
    if text is not None:
        pytest.fail(text, pytrace=False)


def test_a_changed_number_asks_for_a_higher_version() -> None:
    numbers = copy.deepcopy(GOLDEN["numbers"])
    numbers["curve"][0]["loss"] += 1e-5
    text = complaint("generation", GOLDEN, 3, numbers)
    assert text is not None
    assert text.startswith("numbers of generation changed: raise VERSIONS['generation']")
    assert "run `python -m tests.hidfd.stages.golden`" in text
    assert "curve[0].loss is 0.50001, was 0.5" in text
    assert complaint("generation", GOLDEN, 3, {"curve": []}) is not None


def test_a_further_number_asks_for_a_new_golden_file_but_no_higher_version() -> None:
    text = complaint("generation", GOLDEN, 3, GOLDEN["numbers"] | {"deviation": 0.1})
    assert text is not None
    assert "run `python -m tests.hidfd.stages.golden`, and commit" in text
    assert "raise" not in text
    text = complaint("generation", GOLDEN, 3, GOLDEN["numbers"] | {"deviation": 0.1, "count": 8})
    assert text is not None
    assert text.startswith("numbers of generation changed: raise VERSIONS['generation']")


@pytest.mark.parametrize("golden", [GOLDEN, None])
def test_a_raised_version_asks_for_a_new_golden_file(golden: dict[str, Any] | None) -> None:
    text = complaint("generation", golden, 4, {"count": 8})
    assert text is not None
    assert "run `python -m tests.hidfd.stages.golden`, and commit" in text
    assert "raise" not in text


def test_round_off_is_no_change() -> None:
    assert complaint("generation", GOLDEN, 3, {"curve": [{"loss": 0.5 + 1e-9}], "count": 7}) is None
