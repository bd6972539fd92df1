"""TPE at held values: what it suggests depends on what is held, by the joint density of Optuna's own kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from tests.tune.world import definition
from tune.samplers.conditional_tpe import ConditionalTPESampler
from tune.samplers.distributions import distributions_of
from tune.samplers.optuna_samplers import suggest
from tune.study.definition import Definition

INFLATION, TEMPERATURE = "distillation.inflation", "generation.smoothing.temperature"
MODE, WEIGHT_DECAY, SCHEDULE = "generation.smoothing.mode", "distillation.weight_decay", "distillation.schedule"

INTERACTING = {
    TEMPERATURE: {"type": "float", "low": 0.5, "high": 4.0},
    INFLATION: {"type": "float", "low": 1.0, "high": 21.0},
}

CONDITIONAL = {
    MODE: {"type": "categorical", "choices": ["inverse", "off"]},
    TEMPERATURE: {"type": "float", "low": 0.5, "high": 4.0, "when": {MODE: "inverse"}},
    SCHEDULE: {"type": "categorical", "choices": ["steps", "cosine"]},
    INFLATION: {"type": "float", "low": 1.0, "high": 21.0, "when": {SCHEDULE: "steps"}},
    WEIGHT_DECAY: {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
}

KINDS: dict[str, BaseDistribution] = {
    "real": FloatDistribution(0.0, 2.0),
    "logarithm": FloatDistribution(0.01, 10.0, log=True),
    "steps": FloatDistribution(-1.0, 1.0, step=0.25),
    "integer": IntDistribution(1, 9, step=2),
    "logarithm of an integer": IntDistribution(1, 100, log=True),
    "choice": CategoricalDistribution(("a", 2, True)),
}


def best_inflation(params: Mapping[str, Any]) -> float:
    """Return the inflation at which a student is best: 3 at the lowest temperature, 19 at the highest."""
    return 3 + 16 * float(params[TEMPERATURE] - 0.5) / 3.5


def distance(params: Mapping[str, Any]) -> float:
    """Return how far a student is from the best one of its generator, where it has an inflation."""
    return abs(params[INFLATION] - best_inflation(params)) if {INFLATION, TEMPERATURE} <= params.keys() else 5.0


def drawn(study: Definition, number: int, tell: Callable[[dict[str, Any]], dict[str, Any]]) -> list[FrozenTrial]:
    """Return students drawn at random, of which `tell` says how they ended."""
    blind = study.study.model_copy(update={"sampler": "random"})
    distributions, found = distributions_of(study.space), []
    for n in range(number):
        params = suggest(blind, study.space, n, [], {})
        known = {path: distributions[path] for path in params}
        found.append(create_trial(params=params, distributions=known, **tell(params)))
    return found


def as_the_study_does(study: Definition, number: int, past: list[FrozenTrial], held: dict[str, Any]) -> dict[str, Any]:
    """Return what the study's own TPE suggests."""
    return suggest(study.study, study.space, number, past, held)


def as_optuna_does(study: Definition, number: int, past: list[FrozenTrial], held: dict[str, Any]) -> dict[str, Any]:
    """Return what Optuna's own TPE suggests beside enqueued values."""
    seed = int(np.random.SeedSequence((study.study.seed, number)).generate_state(1)[0])
    sampler = TPESampler(seed=seed, n_startup_trials=study.study.startup_students)
    found = optuna.create_study(direction="maximize", sampler=sampler)
    found.add_trials(past)
    if held:
        found.enqueue_trial(held)
    return found.ask(distributions_of(study.space)).params


def test_interaction_with_the_held_generator_is_found() -> None:
    study = definition(search=INTERACTING)
    past = drawn(study, 60, lambda params: {"value": -distance(params)})
    generators = [{TEMPERATURE: temperature} for temperature in (0.8, 3.7)]
    conditional, unconditional = (
        [np.median([distance(suggested(study, n, past, held)) for n in range(60, 72)]) for held in generators]
        for suggested in (as_the_study_does, as_optuna_does)
    )
    assert max(conditional) < 2.5
    assert max(unconditional) > 10  # what is best for one generator is worst for the other


def test_student_that_is_held_suggests_its_generator() -> None:
    study = definition(search=INTERACTING)
    past = drawn(study, 60, lambda params: {"value": -distance(params)})
    low, high = (
        [suggest(study.study, study.space, n, past, {INFLATION: held})[TEMPERATURE] for n in range(60, 72)]
        for held in (4.0, 18.0)
    )
    assert np.median(low) < 1.5
    assert np.median(high) > 3


def test_where_nothing_is_held_optuna_suggests() -> None:
    study = definition(search=INTERACTING)
    past = drawn(study, 30, lambda params: {"value": -distance(params)})
    for n in range(30, 35):
        assert suggest(study.study, study.space, n, past, {}) == as_optuna_does(study, n, past, {})


def test_before_enough_students_have_ended_parameters_are_drawn_at_random() -> None:
    study = definition({"startup_students": 30}, INTERACTING)
    past, held = drawn(study, 29, lambda params: {"value": -distance(params)}), {TEMPERATURE: 0.8}
    assert suggest(study.study, study.space, 29, past, held) == as_optuna_does(study, 29, past, held)
    more = drawn(study, 30, lambda params: {"value": -distance(params)})
    assert suggest(study.study, study.space, 29, more, held) != as_optuna_does(study, 29, more, held)


@pytest.mark.parametrize("kind", KINDS)
def test_density_is_the_joint_one_of_optunas_kernels_divided_by_that_of_what_is_held(kind: str) -> None:
    """A failure says that Optuna builds or keeps its kernels in another way, and `densities_at` has to follow."""
    random, space = np.random.RandomState(0), {"other": FloatDistribution(0.0, 1.0), kind: KINDS[kind]}
    found = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(12):
        found.tell(found.ask(space), float(random.rand()))
    past = found.trials[:-1]
    held = found.trials[-1].params[kind]
    conditional = ConditionalTPESampler({kind: held}, space, 0, 1)
    given = conditional._build_parzen_estimator(found, {"other": space["other"]}, past, False)
    joint = TPESampler()._build_parzen_estimator(found, space, past, False)
    marginal = TPESampler()._build_parzen_estimator(found, {kind: space[kind]}, past, False)
    others = np.linspace(0, 1, 7)
    points = {"other": others, kind: np.full(7, space[kind].to_internal_repr(held))}
    np.testing.assert_allclose(given.log_pdf(points), joint.log_pdf(points) - marginal.log_pdf(points), rtol=1e-9)
    assert np.abs(given.log_pdf(points) - joint.log_pdf(points)).max() > 0.01
    samples = given.sample(random, 4000)["other"]
    mean = np.trapezoid(np.linspace(0, 1, 500) * np.exp(given.log_pdf({"other": np.linspace(0, 1, 500)})), dx=1 / 499)
    assert samples.mean() == pytest.approx(mean, abs=0.03)


def test_conditional_parameters_are_suggested_at_the_held_values_where_they_are_on() -> None:
    study = definition(search=CONDITIONAL)
    past = drawn(study, 150, lambda params: {"value": -distance(params)})
    for temperature in (0.8, 3.7):
        held = {MODE: "inverse", TEMPERATURE: temperature, SCHEDULE: "steps"}
        found = [suggest(study.study, study.space, n, past, held) for n in range(150, 162)]
        assert np.median([distance(params) for params in found]) < 3
    off = suggest(study.study, study.space, 150, past, {MODE: "off", SCHEDULE: "cosine"})
    assert off.keys() == {MODE, SCHEDULE, WEIGHT_DECAY}


def test_student_without_a_held_parameter_counts_as_much_as_no_knowledge() -> None:
    space: dict[str, BaseDistribution] = {"held": FloatDistribution(0.0, 1.0), "other": FloatDistribution(0.0, 1.0)}
    found = optuna.create_study()
    past = [
        create_trial(params={"other": 0.2}, distributions={"other": space["other"]}, value=0.0),
        create_trial(params={"held": 0.9, "other": 0.4}, distributions=space, value=0.0),
    ]

    def weights(held: float) -> Any:
        sampler = ConditionalTPESampler({"held": held}, space, 0, 1)
        return sampler._build_parzen_estimator(found, {"other": space["other"]}, past, False)._mixture_distribution[0]

    without, near, prior = weights(0.9)
    assert near > without == prior
    without, far, prior = weights(0.0)
    assert far < without == prior


def test_several_objectives_and_missed_constraints_count_at_the_held_values_too() -> None:
    further = {"further_objectives": {"deployed_parameters": "minimise"}}

    def tell(params: dict[str, Any]) -> dict[str, Any]:
        return {"values": [-distance(params), 1000 + distance(params)]}

    several = definition(further, INTERACTING)
    one = definition(search=INTERACTING)
    for study, past in (
        (several, drawn(several, 60, tell)),
        (one, drawn(one, 60, infeasible_where_far)),
        (one, drawn(one, 60, pruned)),
    ):
        for temperature in (0.8, 3.7):
            found = [suggest(study.study, study.space, n, past, {TEMPERATURE: temperature}) for n in range(60, 72)]
            assert np.median([distance(params) for params in found]) < 3


def infeasible_where_far(params: dict[str, Any]) -> dict[str, Any]:
    """Return the end of a student whose value is equal to all others', and that misses a constraint where it is far."""
    return {"value": 1.0, "constraints": {"feasible": max(0.0, distance(params) - 2)}}


def pruned(params: dict[str, Any]) -> dict[str, Any]:
    """Return the end of a student that was pruned at a rung."""
    return {"state": TrialState.PRUNED, "intermediate_values": {100: -distance(params)}}
