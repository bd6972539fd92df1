"""Errors of differences: answers to single images on their way to the verdict, and the margin of the pruner."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hidfd.metrics.answers import Answers
from tests.tune.world import World, definition, is_killed, run, summary
from tune.engines.local import run_local
from tune.ledger.ledger import Ledger
from tune.planner.planner import Planner
from tune.planner.snapshots import snapshot_of
from tune.planner.state import StudyState
from tune.study.messages import Channel, ProgressReport, TaskEnd, TaskFinished, from_json, to_json
from tune.study.states import TaskKind
from tune.study.task import Outcome, Task

OF_HYBRID = Answers.of("a", [[True, True, True, False]])
OF_REAL_ONLY = Answers.of("a", [[True, False, True, True]])


ERROR = 0.01
"""Standard error of agreements that differ by some hundredths."""


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


@dataclass
class Uncertain(World):
    """A world in which the agreement at a rung has a standard error."""

    error: float = 0.0

    def execute(self, task: Task, channel: Channel) -> TaskEnd:
        return super().execute(task, _WithError(channel, self.error))


@dataclass
class _WithError:
    channel: Channel
    error: float

    def report(self, report: ProgressReport) -> None:
        more = {"agreement_standard_error": self.error} if report.measured else {}
        self.channel.report(replace(report, metrics=report.metrics | more))

    def verdict(self) -> str | None:
        return self.channel.verdict()


def num_pruned(error: float, **pruner: Any) -> int:
    """Return how many students of a study are pruned where agreement has that standard error."""
    planner = run(definition({"pruner": pruner}), Uncertain(error=error))
    return sum(trial.state == "pruned" for trial in planner.state.search_trials)


def test_margin_stops_nobody_who_cannot_be_told_from_those_that_go_on() -> None:
    assert num_pruned(1.0) == num_pruned(0.0, margin=2.0) == num_pruned(1e-6, margin=2.0) > 0
    assert num_pruned(1.0, margin=2.0) == 0


def test_decisions_with_a_margin_are_the_same_after_a_killed_driver() -> None:
    study, without = definition({"pruner": {"margin": 1.0}, "num_students": 10}), definition({"num_students": 10})
    whole, plain = (summary(run(asked, Uncertain(error=ERROR)))["search_trials"] for asked in (study, without))
    kept, kept_without = ([rung.kept for trial in trials for rung in trial[-1].values()] for trials in (whole, plain))
    assert len(kept) > sum(kept) > sum(kept_without)
    for at in range(12, 60, 8):
        world = Uncertain(error=ERROR)
        assert is_killed(study, world, at)
        run_local(world.planner(study), world.execute)
        state = StudyState(study, Ledger(world.storage, "s", "agreement"))
        assert summary(Planner(state, lambda: 0.0))["search_trials"] == whole


def test_margin_is_in_the_identity_only_where_it_is_set() -> None:
    assert "margin" not in definition().identity()["study"]["pruner"]
    assert definition({"pruner": {"margin": 0}}).identity() == definition({"pruner": {"margin": None}}).identity()
    assert definition({"pruner": {"margin": 1}}).identity()["study"]["pruner"]["margin"] == 1.0
