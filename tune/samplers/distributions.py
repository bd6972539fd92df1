"""The search space as Optuna's distributions. Torch-free."""

from __future__ import annotations

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tune.study.config import CategoricalParameter, FloatParameter, IntParameter, RealParameter
from tune.study.search_space import Space


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Build the distribution of every searched parameter, in the space's order."""
    return {path: distribution_of(parameter) for path, parameter in space.parameters.items()}


def distribution_of(parameter: RealParameter) -> BaseDistribution:
    """Build Optuna's form of one parameter."""
    match parameter:
        case FloatParameter():
            return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        case IntParameter():
            return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        case CategoricalParameter():
            return CategoricalDistribution(parameter.choices)
