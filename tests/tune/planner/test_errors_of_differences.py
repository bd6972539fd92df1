"""Errors of differences: answers to single images on their way to the verdict."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hidfd.metrics.answers import Answers
from tests.tune.world import World, definition, run
from tune.ledger.ledger import Ledger
from tune.planner.snapshots import snapshot_of
from tune.planner.state import StudyState
from tune.study.messages import TaskEnd, TaskFinished, from_json, to_json
from tune.study.states import TaskKind
from tune.study.task import Outcome, Task

OF_HYBRID = Answers.of("a", [[True, True, True, False]])
OF_REAL_ONLY = Answers.of("a", [[True, False, True, True]])


class Answering(World):
    """A world whose compared students say how they answered each of four validation images."""

    def _finished(self, task: Task, *, reused: bool) -> TaskEnd:
        end = super()._finished(task, reused=reused)
        if not isinstance(end, TaskFinished) or task.spec.kind is not TaskKind.STUDENT or task.role == "search":
            return end
        answers = OF_REAL_ONLY if "real-only" in task.label else OF_HYBRID
        said = from_json(to_json(replace(end, answers={"validation_accuracy": answers.to_json()})))
        assert isinstance(said, TaskFinished)
        return said


def test_answers_to_single_images_reach_the_verdict_of_a_driver_that_was_started_again() -> None:
    study, world = definition({"controls": {"synthetic_only": False, "plain_kd": False}}), Answering()
    run(study, world)
    again = snapshot_of(StudyState(study, Ledger(world.storage, "s", "agreement")))
    (gain,) = again.gains
    assert gain.is_paired
    assert gain.image_error == pytest.approx(1.96 * (2 / 3 / 4) ** 0.5, rel=1e-3)
    plain = again.to_json()
    assert not any("answers" in row for row in plain["rows"]), "lines of --json stay short"
    assert OF_HYBRID.hits not in json.dumps(plain, default=str)


def test_outcome_of_an_older_ledger_has_no_answers() -> None:
    planner = run(definition(), World())
    outcome = next(task.outcome for task in planner.state.tasks.values() if task.outcome is not None)
    assert "answers" not in outcome.to_json()
    assert Outcome(**outcome.to_json()) == outcome
