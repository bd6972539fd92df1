"""The search space in Optuna's form."""

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tests.tune.world import SEARCH, definition
from tune.samplers.distributions import distribution_of, distributions_of
from tune.study.config import CategoricalParameter, FloatParameter, IntParameter, RealParameter


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (FloatParameter(type="float", low=1.0, high=20.0, log=True), FloatDistribution(1.0, 20.0, log=True)),
        (FloatParameter(type="float", low=0.0, high=1.0, step=0.25), FloatDistribution(0.0, 1.0, step=0.25)),
        (IntParameter(type="int", low=2, high=8, step=3), IntDistribution(2, 8, step=3)),
        (IntParameter(type="int", low=1, high=64, log=True), IntDistribution(1, 64, log=True)),
        (
            CategoricalParameter(type="categorical", choices=("light", True, 1)),
            CategoricalDistribution(["light", True, 1]),
        ),
    ],
)
def test_parameter_keeps_its_range_scale_and_step(parameter: RealParameter, expected: BaseDistribution) -> None:
    assert distribution_of(parameter) == expected


@pytest.mark.parametrize(("low", "high", "step"), [(0.1, 0.3, 0.1), (0.0, 0.9, 0.3), (1e-4, 5e-4, 2e-4)])
def test_every_value_of_a_stepped_range_lies_in_its_distribution(low: float, high: float, step: float) -> None:
    parameter = FloatParameter(type="float", low=low, high=high, step=step)
    distribution = distribution_of(parameter)
    assert all(distribution._contains(value) for value in parameter.grid() or ())


def test_space_has_its_distributions_upstream_first() -> None:
    downstream, *upstream = reversed(SEARCH)
    space = definition(search={path: SEARCH[path] for path in (downstream, *upstream)}).space
    assert list(distributions_of(space)) == list(space.parameters) == [*upstream, downstream]
