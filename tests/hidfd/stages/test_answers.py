"""The evaluation keeps the answers to single images beside its numbers."""

import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hidfd.metrics.answers import Answers
from hidfd.stages.evaluation import answers_in
from tests.hidfd.stages.golden.runs import World, evaluated


def test_numbers_are_those_of_the_answers_to_single_images(tmp_path: Path) -> None:
    world = World(tmp_path)
    made = evaluated(world)
    assert world.store.get(made.stage, made.digest).files.keys() == {"evaluation.json", "answers.json"}
    kept = {measure: Answers.from_json(answers) for measure, answers in answers_in(made).items()}
    assert kept.keys() == {"agreement", "validation_accuracy"}
    assert sum(kept["validation_accuracy"].sizes) == made.meta["validation_images"]
    assert len(kept["agreement"].sizes) == made.meta["agreement_classes"] > 1
    for measure, answers in kept.items():
        shares = [statistics.fmean(group) for group in answers.groups()]
        assert statistics.fmean(shares) == pytest.approx(made.meta[measure])
        assert 0 < made.meta[measure] < 1


def test_evaluation_of_an_older_version_has_no_answers() -> None:
    older: Any = SimpleNamespace(files={"evaluation.json": None})
    assert answers_in(older) == {}
