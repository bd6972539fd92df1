"""The comparison of a study: its variants, and its finalists beside their controls on fresh seeds."""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hidfd.config.schema import TrialConfig
from hidfd.errors import ConfigError
from hidfd.metrics.answers import Answers
from tune.study.config import REAL_ONLY, StudyConfig
from tune.study.definition import Definition
from tune.study.metrics import merit
from tune.study.search_space import changed
from tune.study.search_trial import SearchTrial
from tune.study.snapshot import RowSnapshot
from tune.study.states import Role, TaskKind, TaskState
from tune.study.task import Task, TaskSpec, task_specs, test_evaluation_spec

TRUSTED_TAU = 0.5
"""Kendall's tau below which a study says that agreement has not ranked its students as their labels do."""

TABLE_METRICS = ("agreement", "validation_accuracy", "test_accuracy", "generator.memorisation")
"""Metrics that are columns of the comparison tables, if they were measured."""

ANSWERED = ("agreement", "validation_accuracy")
"""Measures of which the answers to single images are kept."""


@dataclass(frozen=True)
class ComparisonRow:
    """A row of the comparison: one setting over the study's seeds.

    Attributes:
        name: unique among the rows.
        role: finalist, control, variant or worth.
        params: dotted path -> value, where the trial differs from the study's own `trial:`.
        configs: one trial per seed, in the order of `study.seeds`; empty, as `keys`, if they cannot be built.
        keys, labels: of the students, in the same order.
        test_evaluations: keys of the students' test evaluations, in the same order; empty if the row gets none.
        trial, search_value: of a finalist, the number of its search trial, and the objective's value that chose it.
    """

    name: str
    role: Role
    params: dict[str, Any]
    configs: tuple[TrialConfig, ...] = field(repr=False)
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    test_evaluations: tuple[str, ...] = ()
    trial: int | None = None
    search_value: float | None = None


def best_of(trials: Iterable[SearchTrial]) -> SearchTrial | None:
    """Return the feasible trial of the highest value; of equal ones by the further objectives, then the earliest."""
    return next(iter(_ranked(trials)), None)


def front_of(trials: Iterable[SearchTrial]) -> list[SearchTrial]:
    """Return the Pareto front of the feasible trials, those of the highest value first.

    A trial is left out if one in the front is at least as good in every objective, so equal trials count once.
    """
    front: list[SearchTrial] = []
    for trial in _ranked(trials):  # a trial that dominates another one comes before it
        merits = _merits(trial)
        if not any(all(a >= b for a, b in zip(_merits(other), merits, strict=True)) for other in front):
            front.append(trial)
    return front


def finalists_of(trials: Iterable[SearchTrial], count: int) -> list[SearchTrial]:
    """Return the best feasible trials, best first; with several objectives only the front. Equal ones count once."""
    ranked = _ranked(trials)
    if ranked and ranked[0].further:
        ranked = front_of(ranked)
    found: dict[str, SearchTrial] = {}
    for trial in ranked:
        found.setdefault(trial.task_keys[-1], trial)
    return list(found.values())[:count]


def _ranked(trials: Iterable[SearchTrial]) -> list[SearchTrial]:
    """Return the trials that ended with a value and keep the constraints, best first."""
    complete = (s for s in trials if s.state is TaskState.COMPLETE and s.value is not None)
    feasible = (s for s in complete if not s.violation)
    return sorted(feasible, key=lambda s: ([-merit for merit in _merits(s)], s.number))


def _merits(trial: SearchTrial) -> list[float]:
    """Return the values of a trial's objectives in order, signed so that more is better."""
    return [trial.value or 0.0, *(merit(name, value) for name, value in trial.further.items())]


def variant_rows(definition: Definition) -> list[ComparisonRow]:
    """Build the rows of the study's variants."""
    return [_row(definition, name, "variant", values, name) for name, values in definition.study.variants.items()]


def worth_rows(definition: Definition) -> list[ComparisonRow]:
    """Build the rows that ask when a generator pays: those of hybrid, then those of real-only."""
    return [_row(definition, budget.name, "worth", budget.values, budget.name) for budget in definition.worth_budgets]


def finalist_rows(definition: Definition, finalists: Sequence[SearchTrial]) -> list[ComparisonRow]:
    """Build the rows of the finalists; a single one is called hybrid if it learns from real and synthetic images."""
    rows: list[ComparisonRow] = []
    for trial in finalists:
        name = f"trial-{trial.number}"
        if len(finalists) == 1:
            name = "hybrid" if _is_hybrid(changed(definition.base, trial.params)) else "best"
        row = _row(definition, name, "finalist", trial.params, f"trial-{trial.number}")
        rows.append(replace(row, trial=trial.number, search_value=trial.value))
    return rows


def control_rows(definition: Definition, champion: SearchTrial) -> list[ComparisonRow]:
    """Build the rows of the controls of the best finalist."""
    chosen, label = changed(definition.base, champion.params), f"trial-{champion.number}"
    return [
        _row(definition, name, "control", {**champion.params, **values}, f"{label}-{name}")
        for name, values in controls_of(definition, chosen).items()
    ]


def comparison_specs(definition: Definition, trials: Iterable[SearchTrial]) -> Iterator[TaskSpec]:
    """Yield the tasks that the comparison would need if the search ended now.

    As long as there are too few finalists, the study's own `trial:` takes the place of the missing ones.
    """
    finalists = finalists_of(trials, definition.study.num_finalists)
    params = [finalist.params for finalist in finalists]
    params += [{}] * (definition.study.num_finalists - len(params))
    for number, values in enumerate(params):
        rows = [values]
        if number == 0:
            chosen = changed(definition.base, values)
            rows += [{**values, **control} for control in controls_of(definition, chosen).values()]
        for row in rows:
            for seed in definition.study.seeds:
                with contextlib.suppress(ConfigError):  # a row without numbers
                    yield from task_specs(definition.with_seed(row, seed))


def _is_hybrid(config: TrialConfig) -> bool:
    return config.uses_real_images and config.uses_synthetic_images


def controls_of(definition: Definition, chosen: TrialConfig) -> dict[str, dict[str, Any]]:
    """Return name -> overrides of each control that makes sense for a trial; the number of student steps stays."""
    wanted = definition.study.controls
    is_hybrid = _is_hybrid(chosen)
    controls: dict[str, dict[str, Any]] = {}
    if wanted.real_only and is_hybrid:
        controls["real-only"] = REAL_ONLY | wanted.real_only_values
    if wanted.synthetic_only and is_hybrid:
        controls["synthetic-only"] = {"distillation.inflation": 0.0}
    if wanted.plain_kd and chosen.distillation.head == "shared":
        controls["plain-kd"] = {
            "distillation.head": "own",
            "distillation.feature_weight": 0.0,
            "distillation.kl_weight": 1.0,
            "distillation.ce_weight": 0.0,
            "distillation.learning_rate": wanted.plain_kd_learning_rate,
        }
    return controls


def _row(definition: Definition, name: str, role: Role, values: dict[str, Any], label: str) -> ComparisonRow:
    seeds = definition.study.seeds
    try:
        configs = tuple(definition.with_seed(values, seed) for seed in seeds)
    except ConfigError as error:
        if role == "finalist":
            raise ConfigError(f"{role} {name}: {error}") from error
        return ComparisonRow(name, role, values, (), (), ())  # a row without numbers
    keys = tuple(task_specs(config)[-1].key for config in configs)
    test_evaluations: tuple[str, ...] = ()
    if (
        role in ("finalist", "control")
        and definition.base.data.test is not None
        and definition.study.test_labels == "once"
    ):
        test_evaluations = tuple(test_evaluation_spec(config).key for config in configs)
    return ComparisonRow(
        name, role, values, configs, keys, tuple(f"{label}-seed{seed}" for seed in seeds), test_evaluations
    )


def measured_by(key: str | None, tasks: Mapping[str, Task]) -> dict[str, float] | None:
    """Return the metrics of a task that is complete; None for any other."""
    task = None if key is None else tasks.get(key)
    outcome = None if task is None else task.outcome
    return outcome.metrics if outcome is not None and outcome.state is TaskState.COMPLETE else None


def summarise(row: ComparisonRow, tasks: Mapping[str, Task], study: StudyConfig) -> RowSnapshot:
    """Compute mean and sample standard deviation of a row's complete students, for every metric that all of them have.

    Args:
        row: of the comparison.
        tasks: key -> task of the study.
        study: its constraints decide whether the row is feasible.
    """
    by_seed = [
        found | (measured_by(test_evaluation, tasks) or {}) if (found := measured_by(key, tasks)) is not None else None
        for key, test_evaluation in itertools.zip_longest(row.keys, row.test_evaluations)
    ]
    metrics = [found for found in by_seed if found is not None]
    names = [name for name in (metrics[0] if metrics else {}) if all(name in found for found in metrics)]
    means = {name: statistics.fmean(found[name] for found in metrics) for name in names}
    deviations = {name: statistics.stdev([found[name] for found in metrics]) for name in names if len(metrics) > 1}
    return RowSnapshot(
        name=row.name,
        role=row.role,
        params=row.params,
        keys=tuple(key for key in row.keys if row.role == "finalist" or not _is_infeasible(tasks.get(key))),
        num_complete=len(metrics),
        means=means,
        deviations=deviations,
        feasible=not metrics or (study.unmeasured(means) is None and not study.violation(means)),
        values={
            name: tuple(found.get(name) if found is not None else None for found in by_seed)
            for name in TABLE_METRICS
            if any(name in found for found in metrics)
        },
        trial=row.trial,
        search_value=row.search_value,
        answers={name: tuple(_answers_of(tasks.get(key), name) for key in row.keys) for name in ANSWERED},
    )


def _answers_of(task: Task | None, measure: str) -> Answers | None:
    outcome = None if task is None else task.outcome
    known = None if outcome is None else outcome.answers.get(measure)
    return None if known is None else Answers.from_json(known)


def _is_infeasible(task: Task | None) -> bool:
    return task is not None and task.outcome is not None and task.outcome.state is TaskState.INFEASIBLE


def rank_agreement(tasks: Iterable[Task]) -> tuple[float | None, int]:
    """Compute Kendall's tau between agreement and validation accuracy over complete students, and how many these are.

    Only students of one kind are paired: other images or another head set students far apart, any measure ranks those
    right, and they would flatter this one. Students that are alone in their kind do not count. The tau is None without
    labels, with fewer than three students, or if either measure does not vary.
    """
    kinds: dict[Any, list[tuple[float, float]]] = {}
    for task in tasks:
        metrics = task.outcome.metrics if task.outcome and task.outcome.state is TaskState.COMPLETE else {}
        if task.spec.kind is TaskKind.STUDENT and {"agreement", "validation_accuracy"} <= metrics.keys():
            pair = metrics["agreement"], metrics["validation_accuracy"]
            kinds.setdefault(_kind_of_student(task.spec.config), []).append(pair)
    groups = [pairs for pairs in kinds.values() if len(pairs) > 1]
    count = sum(map(len, groups))
    return (kendall_tau(groups) if count >= 3 else None), count


def _kind_of_student(config: TrialConfig) -> tuple[Any, ...]:
    """Return what sets students far apart: method, sources of their images, number of collected ones, their head."""
    return (
        config.method,
        config.uses_real_images,
        config.uses_synthetic_images,
        config.collection.num_images,
        config.distillation.head,
    )


def kendall_tau(groups: Iterable[Sequence[tuple[float, float]]]) -> float | None:
    """Compute Kendall's tau-b over the pairs within groups, -1..1; None if one of the two measures does not vary.

    **Source**: Kendall 1945. A dozen lines, where importing scipy.stats would cost a second of every command.
    """
    agree = ties_first = ties_second = total = 0
    for (a, b), (c, d) in itertools.chain.from_iterable(itertools.combinations(group, 2) for group in groups):
        total += 1
        ties_first += a == c
        ties_second += b == d
        agree += (a > c) - (a < c) if b > d else (a < c) - (a > c) if b < d else 0
    scale = math.sqrt((total - ties_first) * (total - ties_second))
    return agree / scale if scale else None
