"""Messages of a worker come to the driver as they were sent."""

import json
from typing import get_args

import pytest

from tune.study.messages import (
    AttemptStarted,
    PlacementGroupReserved,
    ProcessJoined,
    ProgressReport,
    TaskBlocked,
    TaskDiverged,
    TaskEnd,
    TaskFailed,
    TaskFinished,
    TaskInfeasible,
    TaskLost,
    TaskStopped,
    WorkerMessage,
    from_json,
    to_json,
)

MESSAGES: tuple[WorkerMessage, ...] = (
    AttemptStarted("host", "n1"),
    ProcessJoined("host", "n2"),
    PlacementGroupReserved("4edfc363"),
    ProgressReport("generation", 8, 16, {"generation/loss": 0.5}, measured=True, picture="a.png", generator="a" * 64),
    TaskFinished({"agreement": 0.5}, reused=True, cpu_seconds=1.5),
    TaskStopped("Ctrl-C", 1.5),
    TaskDiverged("a loss was not finite"),
    TaskInfeasible("60 images, 100 asked", 3, 1.5),
    TaskFailed("ZeroDivisionError: by zero"),
    TaskBlocked("the disk is full", 4, 1.5),
    TaskLost("its node is gone", node_is_gone=True),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_message_arrives_as_it_was_sent(message: WorkerMessage) -> None:
    text = to_json(message)
    assert isinstance(json.loads(text), dict)
    assert from_json(text) == message


def test_every_kind_of_message_is_tried_here() -> None:
    assert {type(message) for message in MESSAGES} == set(get_args(WorkerMessage))


def test_the_words_that_the_ledger_keeps_for_ends_stay() -> None:
    assert {end.word for end in get_args(TaskEnd)} == {"finished", "stopped", "diverged", "failed", "lost"}
