"""A world whose students differ in size: bigger ones are better and slower."""

from typing import Any

from tests.tune.world import World, definition
from tune.study.definition import Definition
from tune.study.messages import TaskEnd, TaskFinished
from tune.study.states import TaskKind
from tune.study.task import Task

ARCHITECTURE, INFLATION = "distillation.architecture", "distillation.inflation"
SIZES = {"resnet8": 80_000.0, "resnet14": 175_000.0, "resnet20": 270_000.0}
SEARCH = {
    ARCHITECTURE: {"type": "categorical", "choices": list(SIZES)},
    INFLATION: {"type": "float", "low": 1.0, "high": 19.0, "step": 3.0},
}
TRADED_OFF = {"further_objectives": {"deployed_parameters": "minimise"}}


class SizedWorld(World):
    """A world in which agreement grows with a student's size, and so do its latency and its number of parameters."""

    def _finished(self, task: Task, *, reused: bool) -> TaskEnd:
        end = super()._finished(task, reused=reused)
        if not isinstance(end, TaskFinished) or task.spec.kind is not TaskKind.STUDENT:
            return end
        size = SIZES[task.spec.config.distillation.architecture]
        agreement = end.metrics["agreement"] + size / 2e6
        sizes = {"deployed_parameters": size, "latency_milliseconds": size / 1e5}
        return TaskFinished(end.metrics | sizes | {"agreement": agreement}, reused, end.cpu_seconds)


def sized(num_students: int = 12, **study: Any) -> Definition:
    """Build a study that searches over the size and the inflation, without pruning unless it is asked for."""
    asked = {"num_students": num_students, "pruner": {"kind": "none"}, "controls": {"plain_kd": False}}
    return definition(asked | study, SEARCH)
