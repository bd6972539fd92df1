"""What is held against what: variants, and the best trial beside its controls on fresh seeds; and what that says."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hidfd.config import TrialConfig
from hidfd.errors import ConfigError
from tune.definition import Definition
from tune.ledger import Suggestion
from tune.snapshot import Role, RowSnapshot, WorkState
from tune.space import changed
from tune.work import Work, pieces_of

TRUSTED_TAU = 0.5
"""Below it agreement has not ranked the students as their labels do, and a study says so."""

TABLE_METRICS = ("agreement", "validation_accuracy", "generator.memorisation")
"""Columns of the tables, where they exist."""


@dataclass(frozen=True)
class Row:
    """One setting over the study's seeds.

    Attributes:
        name: unique among the rows.
        role: finalist, control or variant.
        params: dotted path -> value, where it differs from the study's own `trial:`.
        configs: one trial per seed, in the order of `study.seeds`.
        keys, labels: of the students, likewise.
    """

    name: str
    role: Role
    params: dict[str, Any]
    configs: tuple[TrialConfig, ...] = field(repr=False)
    keys: tuple[str, ...]
    labels: tuple[str, ...]


def best_of(suggestions: Iterable[Suggestion]) -> Suggestion | None:
    """The complete suggestion of the highest value, the earliest of equals."""
    complete = [s for s in suggestions if s.state is WorkState.COMPLETE and s.value is not None]
    return max(complete, key=lambda s: (s.value, -s.number), default=None)


def rows_of(definition: Definition, best: Suggestion | None) -> list[Row]:
    """Every comparison that the study asks for by now: its variants; the best trial and its controls.

    Args:
        definition: of the study.
        best: what the search has found; None while it lasts.
    """
    rows = [_row(definition, name, "variant", values, name) for name, values in definition.study.variants.items()]
    if best is not None:
        rows += _final_rows(definition, best)
    return rows


def _final_rows(definition: Definition, best: Suggestion) -> list[Row]:
    chosen = changed(definition.base, best.params)
    is_hybrid = chosen.uses_real_images and chosen.uses_synthetic_images
    label = f"trial-{best.number}"
    rows = [_row(definition, "hybrid" if is_hybrid else "best", "finalist", best.params, label)]
    for name, values in controls_of(definition, chosen).items():
        rows.append(_row(definition, name, "control", {**best.params, **values}, f"{label}-{name}"))
    return rows


def controls_of(definition: Definition, chosen: TrialConfig) -> dict[str, dict[str, Any]]:
    """Name -> overrides of each control that makes sense beside a trial; the number of student steps stays."""
    wanted = definition.study.controls
    is_hybrid = chosen.uses_real_images and chosen.uses_synthetic_images
    controls: dict[str, dict[str, Any]] = {}
    if wanted.real_only and is_hybrid:
        controls["real-only"] = {"data.synthetic": None, "synthesis.num_images": 0}
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


def _row(definition: Definition, name: str, role: Role, values: dict[str, Any], label: str) -> Row:
    seeds = definition.study.seeds
    try:
        configs = tuple(definition.with_seed(values, seed) for seed in seeds)
    except ConfigError as error:
        raise ConfigError(f"{role} {name}: {error}") from error
    keys = tuple(pieces_of(config)[-1].key for config in configs)
    return Row(name, role, values, configs, keys, tuple(f"{label}-seed{seed}" for seed in seeds))


def summarise(row: Row, works: Mapping[str, Work]) -> RowSnapshot:
    """Mean and sample standard deviation of a row's finished students, for every metric that all of them have."""
    outcomes = [works[key].outcome for key in row.keys if key in works]
    metrics = [outcome.metrics for outcome in outcomes if outcome is not None and outcome.state is WorkState.COMPLETE]
    names = [name for name in (metrics[0] if metrics else {}) if all(name in found for found in metrics)]
    means = {name: statistics.fmean(found[name] for found in metrics) for name in names}
    deviations = {name: statistics.stdev([found[name] for found in metrics]) for name in names if len(metrics) > 1}
    return RowSnapshot(row.name, row.role, row.params, row.keys, len(metrics), means, deviations)


def verdict_of(rows: Sequence[RowSnapshot], objective: str) -> str | None:
    """The best trial against each of its controls, in words; None until they have all ended with a number.

    Percentage points of validation accuracy where labels exist, which the search has not been allowed to see unless
    it asked for them, else of the objective.
    """
    finalist = next((row for row in rows if row.role == "finalist"), None)
    controls = [row for row in rows if row.role == "control"]
    if finalist is None or not finalist.num_complete or not controls:
        return None
    if any(row.num_complete < len(row.keys) for row in (finalist, *controls)):
        return None
    metric = "validation_accuracy" if "validation_accuracy" in finalist.means else objective
    n = finalist.num_complete
    gains = []
    for control in controls:
        gain = 100 * (finalist.means[metric] - control.means[metric])
        text = f"{gain:+.1f} over {control.name}"
        if n > 1:
            error = 100 * math.hypot(finalist.deviations[metric], control.deviations[metric]) / math.sqrt(n)
            text += f" ± {error:.1f}{' (not separable)' if abs(gain) < 2 * error else ''}"
        gains.append(text)
    levels = ", ".join(f"{100 * control.means[metric]:.1f}" for control in controls)
    caution = "; one seed decides nothing, seeds differ by 1-2 points: --seeds 3 says more" if n == 1 else ""
    return (
        f"{finalist.name} {', '.join(gains)} (n = {n}): "
        f"{metric.replace('_', ' ')} {100 * finalist.means[metric]:.1f} % against {levels}{caution}"
    )


def rank_agreement(works: Iterable[Work]) -> tuple[float | None, int]:
    """Kendall's tau between agreement and validation accuracy over complete students, and over how many.

    Only students of one kind are paired: other images or another head set students far apart, any measure ranks those,
    and they would flatter this one. Students that have nobody of their kind beside them do not count. None without
    labels, or with fewer than three students, or where either does not vary.
    """
    kinds: dict[Any, list[tuple[float, float]]] = {}
    for work in works:
        metrics = work.outcome.metrics if work.outcome and work.outcome.state is WorkState.COMPLETE else {}
        if work.piece.kind == "student" and {"agreement", "validation_accuracy"} <= metrics.keys():
            pair = metrics["agreement"], metrics["validation_accuracy"]
            kinds.setdefault(_kind_of(work.piece.config), []).append(pair)
    groups = [pairs for pairs in kinds.values() if len(pairs) > 1]
    count = sum(map(len, groups))
    return (kendall_tau(groups) if count >= 3 else None), count


def _kind_of(config: TrialConfig) -> tuple[Any, ...]:
    """What sets students far apart: where their images come from, how many were collected, and whose head they have."""
    return (
        config.uses_real_images,
        config.uses_synthetic_images,
        config.collection.num_images,
        config.distillation.head,
    )


def kendall_tau(groups: Iterable[Sequence[tuple[float, float]]]) -> float | None:
    """Kendall's tau-b over the pairs within groups, -1..1; None where one side does not vary.

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
