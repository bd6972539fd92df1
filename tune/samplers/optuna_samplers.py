"""The next suggestion, as a pure function of the study's seed, its number and what the ledger holds. Torch-free.

Optuna's samplers are made anew for each suggestion, from (study seed, number): a study that was killed and resumed
suggests what the uninterrupted one would have. The rule for sharing is the simplest one: upstream parameters are
suggested anew for every n-th student and held for those between.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from tune.study.config import StudyConfig
from tune.study.metrics import optuna_direction
from tune.study.search_space import Space


def suggest(
    study: StudyConfig, space: Space, number: int, history: Sequence[FrozenTrial], held: dict[str, Any]
) -> dict[str, Any]:
    """Parameters of suggestion `number`.

    Args:
        study: sampler and seed.
        space: what is searched.
        number: 0, 1, ...
        history: the suggestions before it, with what is known of them by now.
        held: values that are settled already: of a point to try first, or taken over from its group.

    Returns:
        Dotted path -> value for every path that is searched there.
    """
    if study.sampler == "grid":
        taken = {_known_as(trial.params) for trial in history}  # not `number` of them: one that failed stands twice
        return next(params for params in space.grid() if _known_as(params) not in taken)
    # A study of its own in memory, so that the ledger gets a suggestion whole or not at all.
    directions = [optuna_direction(name) for name in (study.objective, *study.further_objectives)]
    scratch = optuna.create_study(directions=directions, sampler=_sampler(study, number))
    if study.sampler == "tpe":
        scratch.add_trials(history)
    if held:
        scratch.enqueue_trial(held)
    trial = scratch.ask()
    params: dict[str, Any] = {}
    for path, distribution in space.distributions.items():
        if space.is_active(path, params):
            params[path] = _suggest_one(trial, path, distribution)
    return params


def _known_as(params: dict[str, Any]) -> str:
    """Equal for equal values; 1 and true are two."""
    return json.dumps(params, sort_keys=True)


def _sampler(study: StudyConfig, number: int) -> BaseSampler:
    seed = int(np.random.SeedSequence((study.seed, number)).generate_state(1)[0])
    if study.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=study.startup_students)


def _suggest_one(trial: optuna.Trial, path: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case optuna.distributions.FloatDistribution():
            return trial.suggest_float(
                path, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case optuna.distributions.IntDistribution():
            return trial.suggest_int(
                path, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case optuna.distributions.CategoricalDistribution():
            return trial.suggest_categorical(path, distribution.choices)
    raise AssertionError(distribution)
