"""A search trial: parameters that the sampler suggested, and how the student trained with them ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tune.study.asha import Decision
from tune.study.states import TaskState


@dataclass
class SearchTrial:
    """Parameters that the sampler suggested, and how the student trained with them ended.

    Attributes:
        number: 0, 1, ...
        params: dotted path -> value.
        group: number of the search trial whose upstream parameters, and so whose generator, it shares; its own number
            if it is the first of its group.
        why: reason for these parameters, in words.
        point: index of the entry of `study.points` that it tries, if it tries one.
        retries: number of the failed search trial whose parameters it tries again, if it does.
        task_keys: keys of its tasks, the student's last; empty until they are in the ledger.
        rungs: student images -> decision at that rung.
        state, reason, value: those of the student, once it has ended.
        further: further objective -> its value, once the student has ended.
        violation: by how much the student misses the study's constraints; 0 where it keeps them.
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
