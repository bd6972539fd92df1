"""The state of a study at one moment, as plain data: all that reports, MLflow, `status` and the terminal read.

Data flows one way: the planner makes a `StudySnapshot` from its ledger; whoever shows it decides nothing. Times are
seconds since the epoch (UTC). Every metric is a float under its name in `result.json`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from hidfd.config.schema import TrialConfig
from hidfd.metrics.answers import Answers
from tune.study.config import SearchConfig, StudyConfig
from tune.study.states import Role, Standing, TaskKind, TaskState, Value

JSON_NAMES = {"study": "config", "tasks": "works", "comparison_rows": "rows", "test_evaluations": "openings"}
"""Attribute of a `StudySnapshot` -> its key in JSON, where the two differ."""


@dataclass(frozen=True)
class AttemptSnapshot:
    """One run of a task.

    Attributes:
        number: 0, 1, ... within its task.
        node: the host that ran it.
        resources: the cpus, gpus and workers that it held.
        started, last_seen, ended: times; `ended` is None while it runs.
        images_from, images_to: progress of its last stage as known when it started, and when it was last seen. The
            checkpoint that it resumed from may be earlier.
        end: finished, stopped, diverged, lost, node lost, failed, or interrupted (with its driver); None while it runs.
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
    """The comparison of a student with the others at one rung, after exactly equal numbers of images.

    Attributes:
        images: images that the student had seen.
        value: its agreement there.
        kept: whether it went on.
        num_others: how many students had been measured there before.
        num_better: how many of those had a higher agreement.
        best: a few of their highest agreements, best first.
        error: standard error of the value, where the pruner has a margin.
    """

    images: int
    value: float
    kept: bool
    num_others: int
    num_better: int
    best: tuple[float, ...]
    error: float | None = None


@dataclass(frozen=True)
class TaskSnapshot:
    """A task: one collection, generator, student or test evaluation, which several trials may share.

    Attributes:
        number: its place in the order of creation, stable over restarts.
        key: digest of the artifact that it makes, 64 hex digits.
        kind: what it makes.
        role: whether the search, a variant, a control or a finalist asked for it first.
        label: its name for people, unique in the study; also the name of its folder.
        trial: number of the search trial that asked for it first, if one did.
        seed: the seed of its main stage.
        params: dotted path into `trial:` -> value, where it differs from the study's own `trial:`.
        needs: keys of the builds that it needs.
        state, reason: its state, and the reason for it in words (None where the state says enough).
        stage, images, target_images: progress of the stage that runs now, or ran last.
        metrics: final numbers (of `result.json`), or the newest known while it runs; for a student with its test
            accuracy, once it was evaluated on the test labels.
        value, value_error: the study's objective and its standard error, once final; None for builds.
        rungs: in order of images.
        reused: whether every stage was found in the store, so that nothing was computed.
        seconds: wall seconds of all its attempts.
        attempts: in order.
        folder: the trial folder (`metrics.jsonl`, `result.json`, `samples/`, `pictures/`, `report.html`, ...); may not
            exist yet, or any more.
        picture: path of the newest sample grid, if any.
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
    """A search trial: parameters that the sampler suggested, and the student that is trained with them.

    Attributes:
        number: 0, 1, ... as in Optuna's study.
        params: dotted path -> value.
        group: number of the trial whose upstream parameters, and so whose generator, it shares.
        key: key of its student; trials with equal parameters share one. None where its parameters do not fit together.
        state, reason, value: those of its student, where it has one.
        why: why the sampler suggested these parameters, in words.
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
    """A row of the comparison table: one setting over its seeds.

    Attributes:
        name: `hybrid`, `real-only`, ..., or the variant's name.
        role: finalist, control or variant.
        params: dotted path -> value, where it differs from the study's own `trial:`.
        keys: keys of its students, one per seed.
        num_complete: n, the number of students that have ended with a number.
        means, deviations: metric -> mean and sample standard deviation over the n (deviations only for n >= 2).
        feasible: False where the means miss a constraint of the study.
        values: metric of the tables -> its value on each of `study.seeds`, in their order; None where there is none.
        trial, search_value: of a finalist, the number of its search trial, and the objective's value that chose it.
        answers: measure -> the student's answers to single images on each of `study.seeds`; None where they were not
            kept. `to_json` of the study leaves them out.
    """

    name: str
    role: Role
    params: dict[str, Value]
    keys: tuple[str, ...]
    num_complete: int
    means: dict[str, float]
    deviations: dict[str, float]
    feasible: bool = True
    values: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    trial: int | None = None
    search_value: float | None = None
    answers: dict[str, tuple[Answers | None, ...]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class GainSnapshot:
    """The lead of the best finalist over another row of the comparison, on the fresh seeds that both have.

    Shares and their differences are from 0 to 1, intervals are at 95 %; `tune.study.verdict` says how they are made.

    Attributes:
        name, other: of the finalist's row, and of the row that it is held against.
        role: of that row: the second finalist, or a control.
        metric: that is compared: validation accuracy if there are labels, else the objective.
        value, other_value: means of the two rows over these seeds.
        gain: `value` minus `other_value`.
        num_seeds: the number n of seeds that both have.
        degrees_of_freedom: of the variance behind the interval; 0 where there is none.
        low, high: ends of the gain's interval over seeds; None with one seed.
        image_error: half-width of the gain's interval over images, of which it was measured on so many; None where it
            is not known.
        is_paired: whether that was measured image by image; else it is an upper bound.
        num_images: the number of labelled images; None for agreement.
        standing: `won` and `lost` where the interval over seeds excludes 0, else `undecided`; `open` without one.
    """

    name: str
    other: str
    role: Role
    metric: str
    value: float
    other_value: float
    gain: float
    num_seeds: int
    degrees_of_freedom: int
    low: float | None
    high: float | None
    image_error: float | None
    num_images: int | None
    standing: Standing
    is_paired: bool = False


@dataclass(frozen=True)
class CostDifferenceSnapshot:
    """Lead of hybrid over real-only at one student budget of hybrid: at the same total cost, or at as many steps.

    Attributes:
        steps: of the hybrid students.
        values: the difference on each seed, -1..1; None where a student or its cost is missing, or real-only was not
            measured there.
        mean: over the seeds that have one; None where none has.
        low, high: ends of the mean's 95 % interval over seeds; None with fewer than two.
        num_seeds: the number of seeds that have one.
    """

    steps: int
    values: tuple[float | None, ...]
    mean: float | None
    low: float | None
    high: float | None
    num_seeds: int


@dataclass(frozen=True)
class CrossingSnapshot:
    """A student budget at which the mean difference of hybrid to real-only at equal total cost changes its sign.

    Attributes:
        steps: of that budget, interpolated.
        low, high: the steps between which the interval of the difference contains 0; None where it does so up to the
            end of what was measured.
        pays_beyond: whether hybrid is ahead above these steps, else below them.
    """

    steps: float
    low: float | None
    high: float | None
    pays_beyond: bool


@dataclass(frozen=True)
class WorthBudgetSnapshot:
    """The students of one arm of `study.worth` at one budget.

    Attributes:
        name: such as `hybrid-1200-steps`.
        arm: `hybrid` or `real-only`.
        steps: of each student.
        keys: of its students, one per seed.
        values, costs: the metric and the total cost on each of `study.seeds`; None where it is not known.
        mean, deviation: of the values that are known; None without any (the deviation: with one).
        cost: mean of the costs that are known; None without any.
        difference: to real-only at the same total cost; None for real-only.
        at_equal_steps: to real-only of as many steps, as if the generator cost nothing; None for real-only.
    """

    name: str
    arm: Literal["hybrid", "real-only"]
    steps: int
    keys: tuple[str, ...]
    values: tuple[float | None, ...]
    costs: tuple[float | None, ...]
    mean: float | None
    deviation: float | None
    cost: float | None
    difference: CostDifferenceSnapshot | None = None
    at_equal_steps: CostDifferenceSnapshot | None = None

    @property
    def num_complete(self) -> int:
        """The number of its students that have ended with a number."""
        return sum(value is not None for value in self.values)


@dataclass(frozen=True)
class WorthSnapshot:
    """The answer to when a generator pays; `tune.study.worth.equal_cost` says how it is made.

    Attributes:
        metric: that is compared: validation accuracy if there are labels, else the objective.
        unit: of the costs: `CPU-seconds` or `GPU-seconds`.
        budgets: hybrid's in ascending order, then real-only's.
        crossings: in ascending order.
        answer: in a sentence; None until every student has ended.
        notes: what the answer leaves out, in words.
    """

    metric: str
    unit: str
    budgets: tuple[WorthBudgetSnapshot, ...]
    crossings: tuple[CrossingSnapshot, ...]
    answer: str | None
    notes: tuple[str, ...]

    @property
    def num_complete(self) -> int:
        """The number of its students that have ended with a number."""
        return sum(budget.num_complete for budget in self.budgets)


@dataclass(frozen=True)
class TestEvaluationSnapshot:
    """One evaluation of students on the test labels, which the study keeps closed otherwise.

    Attributes:
        when: seconds since the epoch.
        students: labels of the students that were evaluated.
    """

    when: float
    students: tuple[str, ...]


@dataclass(frozen=True)
class StudySnapshot:
    """A study at one moment.

    Attributes:
        name: of the study file.
        file: path of the study file, as given.
        command: the command that runs and resumes it.
        objective: the metric that is maximised, `agreement` or `validation_accuracy`; further ones and the constraints
            are in `study`.
        searched: paths of the searched parameters, upstream first.
        num_students: how many students the search may suggest; 0 in a study of variants only.
        study, search, trial: the resolved sections of the study file.
        trials: the search trials, in order.
        tasks: every task, in order of creation.
        comparison_rows: the comparison table: finalists and controls on fresh seeds, or variants.
        best: number of the best feasible search trial so far. It is no champion: its own value chose it.
        rank_agreement: Kendall's tau between agreement and validation accuracy over pairs of complete students of one
            kind (sources of images, size of the collection, head), if labels exist.
        rank_agreement_count: the number of those students.
        verdict: the result in words, once there is one.
        gains: the numbers behind the verdict: the best finalist beside the second one and each control.
        worth: when a generator pays; None where `study.worth` does not ask.
        undone: what the budget left undone, in words; None where nothing was.
        finished: whether nothing is left to do.
        folder: the folder of the report and the trial folders.
        tracking: the MLflow URI, redacted.
        cpu_seconds: processor time that the study's attempts have reported so far.
        notes: lines for the user.
        test_evaluations: evaluations on the test labels; more than one where seeds or students were added afterwards.
        stopping: why no task is started any more and running ones save a checkpoint; None where the study goes on.
        spent: what all attempts have held so far: `cpu_hours`, `gpu_hours`, `wall_hours`, and `money` at the prices of
            the budget.
        front: numbers of the search trials on the Pareto front, the best first; empty with one objective.
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
    comparison_rows: tuple[RowSnapshot, ...]
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
    gains: tuple[GainSnapshot, ...] = ()
    worth: WorthSnapshot | None = None

    def task(self, key: str) -> TaskSnapshot | None:
        """Return the task with that key, or None where the study has none."""
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
        for row in plain["comparison_rows"]:
            del row["answers"]
        return {JSON_NAMES.get(name, name): plain[name] for name in plain if name not in ("search", "trial")}
