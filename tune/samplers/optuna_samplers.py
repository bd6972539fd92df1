"""Parameters of the next search trial by Optuna's samplers or a grid: a pure function of seed, number and history.

Optuna's samplers are made anew for each search trial, from (study seed, number): a study that was killed and resumed
suggests what the uninterrupted one would have. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from tune.samplers.conditional_tpe import ConditionalTPESampler
from tune.samplers.distributions import distributions_of
from tune.study.config import StudyConfig
from tune.study.metrics import optuna_direction
from tune.study.search_space import Space


def suggest(
    study: StudyConfig, space: Space, number: int, history: Sequence[FrozenTrial], fixed: dict[str, Any]
) -> dict[str, Any]:
    """Suggest the parameters of a search trial.

    Args:
        study: its sampler and seed.
        space: the search space.
        number: of the search trial: 0, 1, ...
        history: the search trials before it, with what is known of them by now.
        fixed: values that are chosen already: those of a point to try first, and those taken over from its group.

    Returns:
        Dotted path -> value for every active parameter.
    """
    if study.sampler == "grid":
        taken = {_canonical(trial.params) for trial in history}  # fewer than `number` where a failed one was retried
        return next(params for params in space.grid() if _canonical(params) not in taken)
    # A study in memory, so that the ledger gets a search trial whole or not at all.
    directions = [optuna_direction(name) for name in (study.objective, *study.further_objectives)]
    distributions = distributions_of(space)
    scratch = optuna.create_study(directions=directions, sampler=_sampler(study, number, fixed, distributions))
    if study.sampler == "tpe":
        scratch.add_trials(history)
    if fixed:
        scratch.enqueue_trial(fixed)
    trial = scratch.ask()
    params: dict[str, Any] = {}
    for path, distribution in distributions.items():
        if space.is_active(path, params):
            params[path] = _suggest_one(trial, path, distribution)
    return params


def _canonical(params: dict[str, Any]) -> str:
    """Return a text that is equal for equal parameters, and different for 1 and true."""
    return json.dumps(params, sort_keys=True)


def _sampler(
    study: StudyConfig, number: int, fixed: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> BaseSampler:
    seed = int(np.random.SeedSequence((study.seed, number)).generate_state(1)[0])
    if study.sampler == "random":
        return RandomSampler(seed=seed)
    if fixed:
        return ConditionalTPESampler(fixed, distributions, seed, study.startup_students)
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
