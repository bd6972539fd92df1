from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from tests.tune.world import definition
from tune.samplers.distributions import distributions_of
from tune.samplers.optuna_samplers import suggest
from tune.study.definition import Definition


def history(study: Definition, values: list[float | None]) -> list[FrozenTrial]:
    """Return past search trials: the value falls with the distance of inflation from 15; None is a collapsed one."""
    found = optuna.create_study(direction="maximize")
    for number, value in enumerate(values):
        params = suggest(study.study, study.space, number, [], {})
        trial = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=distributions_of(study.space),
            user_attrs={"group": 0},
        )
        found.add_trial(trial)
        running = optuna.Trial(found, found.trials[-1]._trial_id)
        running.set_constraint("feasible", 1.0 if value is None else 0.0)
        if value is None:
            found.tell(number, state=TrialState.PRUNED)
        else:
            found.tell(number, value - abs(params["distillation.inflation"] - 15))
    return found.trials


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_search_trial_depends_on_seed_number_and_history_only(sampler: str) -> None:
    study = definition({"sampler": sampler})
    past = history(study, [1.0, 2.0, 3.0, None, 4.0])
    one = suggest(study.study, study.space, 5, past, {})
    assert suggest(study.study, study.space, 5, past, {}) == one
    assert suggest(study.study, study.space, 6, past, {}) != one
    other = study.study.model_copy(update={"seed": 1})
    assert suggest(other, study.space, 5, past, {}) != one


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_held_parameters_stay(sampler: str) -> None:
    study = definition({"sampler": sampler})
    past = history(study, [1.0, 2.0, 3.0, 4.0])
    held: dict[str, Any] = {path: past[0].params[path] for path in study.space.upstream}
    params = suggest(study.study, study.space, 4, past, held)
    assert {path: params[path] for path in held} == held
    assert params["distillation.inflation"] != past[0].params["distillation.inflation"]


def test_tpe_learns_where_good_students_are() -> None:
    study = definition()
    past = history(study, [0.0] * 24)
    inflations = [suggest(study.study, study.space, n, past, {})["distillation.inflation"] for n in range(24, 40)]
    blind = [suggest(study.study, study.space, n, [], {})["distillation.inflation"] for n in range(24, 40)]
    assert sum(abs(inflation - 15) for inflation in inflations) < 0.6 * sum(abs(value - 15) for value in blind)
