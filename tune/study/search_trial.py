"""One suggestion of the sampler, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tune.study.asha import Decision
from tune.study.states import TaskState


@dataclass
class SearchTrial:
    """Parameters that the sampler suggested, and what became of them.

    Attributes:
        number: 0, 1, ...
        params: dotted path -> value.
        group: number of the suggestion whose upstream parameters it holds.
        why: these parameters, in words.
        point: which of `study.points` it tries, if one.
        retries: number of the suggestion that failed and that it makes again, if one.
        task_keys: keys of its tasks, the student's last; empty until they are written.
        rungs: student images -> decision there.
        state, reason, value: the student's, once it has ended.
        further: further objective -> its value, likewise.
        violation: by how much it misses the study's constraints; 0 where it keeps them.
    """

    number: int
    params: dict[str, Any]
    group: int
    why: str = ""
    point: int | None = None
    retries: int | None = None
    task_keys: tuple[str, ...] = ()
    rungs: dict[int, Decision] = field(default_factory=dict)
    state: TaskState = TaskState.WAITING
    reason: str | None = None
    value: float | None = None
    further: dict[str, float] = field(default_factory=dict)
    violation: float = 0.0
