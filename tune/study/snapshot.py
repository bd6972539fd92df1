"""What a study is at one moment, as plain data: all that MLflow, the report, `status` and the terminal ever see.

Data flows one way: the planner and its ledger make a `StudySnapshot`; the projections read it and decide nothing.
Times are seconds since the epoch (UTC). Every metric is a float under the name that `result.json` gives it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hidfd.config.schema import TrialConfig
from tune.study.config import SearchConfig, StudyConfig
from tune.study.states import Role, TaskKind, TaskState, Value

JSON_NAMES = {"study": "config", "tasks": "works", "test_evaluations": "openings"}
"""Attribute of a `StudySnapshot` -> its key in JSON, where the two differ."""


@dataclass(frozen=True)
class AttemptSnapshot:
    """One time that a task ran.

    Attributes:
        number: 0, 1, ... within its work.
        node: host that ran it.
        resources: what it held: cpus, gpus, workers.
        started, last_seen, ended: times; `ended` is None while it runs.
        images_from, images_to: progress of its last stage that was known when it started, and when it was last seen;
            the checkpoint that it goes on from may be earlier.
        end: how it ended: finished, stopped, diverged, lost, node lost, failed, or interrupted (with its driver); None
            while it runs.
        cpu_seconds: processor time of its process, where known.
    """

    number: int
    node: str
    resources: dict[str, float]
    started: float
    last_seen: float
    ended: float | None
    images_from: int
    images_to: int
    end: str | None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class RungSnapshot:
    """One comparison of a student with the others at exactly equal images.

    Attributes:
        images: student images seen.
        value: agreement measured there.
        kept: whether it went on.
        num_others: students that had been measured there before it.
        num_better: of those, with a higher value.
        best: their highest values, best first, a few.
    """

    images: int
    value: float
    kept: bool
    num_others: int
    num_better: int
    best: tuple[float, ...]


@dataclass(frozen=True)
class TaskSnapshot:
    """One upstream build, one student or one opening of the test labels: what makes one artifact, whoever asks for it.

    Attributes:
        number: order of creation in the study, stable over restarts.
        key: digest of what it makes, 64 hex digits: its identity.
        kind: what it makes.
        role: who asked first.
        label: its name for people, unique in the study; also the name of its folder.
        trial: number of the search trial that asked first, if one did.
        seed: the seed of generation, synthesis and distillation.
        params: dotted path into `trial:` -> value, where it differs from the study's own `trial:`.
        needs: keys of the builds that it rests on.
        state, reason: where it stands, and why in words (None where nothing needs saying).
        stage, images, target_images: progress of the stage that runs now, or ran last.
        metrics: final numbers (of `result.json`), or the newest known while it runs; a student's with its test
            accuracy, once the test labels have been opened for it.
        value, value_error: the study's objective and its standard error, once final; None for builds.
        rungs: in order of images.
        reused: every stage was found in the store: nothing was computed.
        seconds: wall seconds of all its attempts.
        attempts: in order.
        folder: the trial folder (`metrics.jsonl`, `result.json`, `samples/`, `pictures/`, `report.html`, ...); may not
            exist yet, or any more.
        picture: newest sample grid, if any.
    """

    number: int
    key: str
    kind: TaskKind
    role: Role
    label: str
    trial: int | None
    seed: int
    params: dict[str, Value]
    needs: tuple[str, ...]
    state: TaskState
    reason: str | None
    stage: str | None
    images: int
    target_images: int | None
    metrics: dict[str, float]
    value: float | None
    value_error: float | None
    rungs: tuple[RungSnapshot, ...]
    reused: bool
    seconds: float
    attempts: tuple[AttemptSnapshot, ...]
    folder: str
    picture: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON under the keys that programs read: `kind` as the ledger writes it, and `until`."""
        plain: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name == "kind":
                plain |= {"kind": self.kind.recorded_as, "until": self.kind.last_stage}
            else:
                plain[name] = value
        return plain


@dataclass(frozen=True)
class TrialSnapshot:
    """One row of the search: parameters that the sampler suggested, and the student that they lead to.

    Attributes:
        number: 0, 1, ... as in Optuna's study.
        params: dotted path -> value.
        group: number of the trial whose upstream parameters (and so whose generator) it shares.
        key: its student's work. Trials that were suggested equal share one.
        state, reason, value: the student's, where it has one.
        why: these parameters, in words.
        feasible: False where the student has ended and misses a constraint of the study.
    """

    number: int
    params: dict[str, Value]
    group: int
    key: str | None
    state: TaskState
    reason: str | None
    value: float | None
    why: str = ""
    feasible: bool = True


@dataclass(frozen=True)
class RowSnapshot:
    """One line of the table of comparisons: one setting over its seeds.

    Attributes:
        name: `hybrid`, `real-only`, ..., or the variant's name.
        role: finalist, control or variant.
        params: dotted path -> value, where it differs from the study's own `trial:`.
        keys: its students, one per seed.
        num_complete: n, how many of them have ended with a number.
        means, deviations: metric -> mean and sample standard deviation over the n (deviations only for n >= 2).
        feasible: False where the means miss a constraint of the study.
    """

    name: str
    role: Role
    params: dict[str, Value]
    keys: tuple[str, ...]
    num_complete: int
    means: dict[str, float]
    deviations: dict[str, float]
    feasible: bool = True


@dataclass(frozen=True)
class TestEvaluationSnapshot:
    """One time that the study opened the test labels.

    Attributes:
        when: seconds since the epoch.
        students: labels of those that were measured on them.
    """

    when: float
    students: tuple[str, ...]


@dataclass(frozen=True)
class StudySnapshot:
    """A study at one moment.

    Attributes:
        name: of the study file.
        file: the study file's path, as given.
        command: the command that runs and resumes it.
        objective: metric that is maximised: `agreement` or `validation_accuracy`; `study` has further ones and the
            constraints.
        searched: parameters of `search:`, upstream first.
        num_students: how many the search may suggest; 0 in a study of variants only.
        study, search, trial: the resolved sections of the study file.
        trials: the search, in order.
        works: every task, in order of creation.
        rows: comparisons: best and controls on fresh seeds, or variants.
        best: number of the best feasible search trial so far. Not a champion: it was chosen on this very number.
        front: numbers of the search trials of the Pareto front, the best first; empty with one objective.
        rank_agreement: Kendall's tau between agreement and validation accuracy over pairs of complete students of one
            kind (sources of images, size of the collection, head), if labels exist.
        rank_agreement_count: over how many students.
        verdict: the result in words, once there is one.
        undone: what the budget left undone, in words; None where nothing was.
        finished: nothing is left to do.
        folder: where the study's own files go (its report, the trial folders).
        tracking: the MLflow URI, redacted.
        cpu_seconds: processor time that this study's attempts report so far.
        notes: lines for the user.
        stopping: why nothing more is started and what runs saves a checkpoint; None where the study goes on.
        spent: what every attempt has held so far: `cpu_hours`, `gpu_hours`, `wall_hours`, and `money` at the prices of
            the budget.
        openings: when the study opened the test labels; more than one where seeds or students were added afterwards.
    """

    name: str
    file: str
    command: str
    objective: str
    searched: tuple[str, ...]
    num_students: int
    study: StudyConfig
    search: SearchConfig
    trial: TrialConfig
    trials: tuple[TrialSnapshot, ...]
    tasks: tuple[TaskSnapshot, ...]
    rows: tuple[RowSnapshot, ...]
    best: int | None
    rank_agreement: float | None
    rank_agreement_count: int
    verdict: str | None
    undone: str | None
    finished: bool
    folder: str
    tracking: str
    cpu_seconds: float
    notes: tuple[str, ...] = field(default=())
    test_evaluations: tuple[TestEvaluationSnapshot, ...] = field(default=())
    stopping: str | None = None
    spent: dict[str, float] = field(default_factory=dict)
    front: tuple[int, ...] = ()

    def task(self, key: str) -> TaskSnapshot | None:
        """The task of that key, if the study has it."""
        return next((task for task in self.tasks if task.key == key), None)

    def settings(self) -> dict[str, Any]:
        """Return the resolved `study:`, `search:` and `trial:` sections as plain JSON."""
        return {
            "study": self.study.model_dump(mode="json"),
            "search": self.search.model_dump(mode="json"),
            "trial": self.trial.model_dump(mode="json", exclude={"preset"}),
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON of the whole study under the keys that programs read, as `--json` prints it."""
        plain = asdict(self) | {"study": self.settings(), "tasks": [task.to_json() for task in self.tasks]}
        return {JSON_NAMES.get(name, name): plain[name] for name in plain if name not in ("search", "trial")}
