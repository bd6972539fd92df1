"""Optuna's TPE at held values: the other parameters are suggested from the joint density of all, given these.

TPE's densities of good and of bad students are sums of kernels, one for each student, and each kernel is a product over
the parameters. So the density of some parameters given the others is the sum of the same kernels, each weighed by its
density at the values of the others. Torch-free.

**Source**: the multivariate kernels of Falkner et al. 2018 (BOHB, arXiv:1807.01774), as Optuna builds them. Our
departure: they are conditioned on what is held. A student without a held parameter (it was off) tells nothing of that
parameter: its kernel counts there as much as the prior's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.trial import FrozenTrial
from scipy.special import ndtr  # scipy.stats would cost a second of every command

LEAST_WEIGHT = float(np.finfo(np.float64).tiny)
"""Weight of kernels whose density at the held values is too small for a number, so that it has a logarithm."""


class ConditionalTPESampler(TPESampler):
    """TPE that knows the values of the parameters that it does not suggest."""

    def __init__(
        self, held: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], seed: int, num_startup: int
    ) -> None:
        """Build the sampler of one search trial.

        Args:
            held: dotted path -> value of the parameters that are chosen already.
            distributions: of all parameters.
            seed: of its random numbers.
            num_startup: number of students that have to end before it uses results.
        """
        super().__init__(seed=seed, n_startup_trials=num_startup, multivariate=True)
        self._known = dict(held)
        self._distributions = distributions

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are suggested together: those that all students have, without the held ones."""
        space = super().infer_relative_search_space(study, trial)
        return {path: distribution for path, distribution in space.items() if path not in self._known}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Suggest these together, and know them from now on."""
        suggested = super().sample_relative(study, trial, search_space)
        self._known |= suggested
        return suggested

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Suggest a parameter that only some students have."""
        self._known |= trial.params
        return super().sample_independent(study, trial, param_name, param_distribution)

    def _build_parzen_estimator(
        self, study: Study, search_space: dict[str, BaseDistribution], trials: list[FrozenTrial], handle_below: bool
    ) -> _ParzenEstimator:
        """Build the density of some parameters given the known ones, from the students that have the former."""
        estimator = super()._build_parzen_estimator(study, search_space, trials, handle_below)
        learnt = [trial for trial in trials if search_space.keys() <= trial.params.keys()]
        joint = estimator._mixture_distribution
        logs = np.log(joint.weights)
        for path, value in self._known.items():
            distribution = self._distributions[path]
            if distribution.single():
                continue
            has_it = np.array([*(path in trial.params for trial in learnt), True])  # the prior's kernel is the last
            of_one = super()._build_parzen_estimator(study, {path: distribution}, learnt, handle_below)
            (kernels,) = of_one._mixture_distribution.distributions
            densities = densities_at(kernels, distribution.to_internal_repr(value))
            spread = np.full(len(has_it), densities[-1])
            spread[has_it] = densities
            logs += np.log(np.maximum(spread, LEAST_WEIGHT))
        weights = np.maximum(np.exp(logs - logs.max()), LEAST_WEIGHT)
        estimator._mixture_distribution = joint._replace(weights=weights / weights.sum())
        return estimator


def densities_at(kernels: Any, value: float) -> NDArray[np.float64]:
    """Return the density, or with steps the probability, of each of Optuna's kernels of one parameter at a value.

    Args:
        kernels: `_Batched...Distributions` of Optuna, one for each kind of parameter.
        value: in Optuna's form: a number, or the index of a choice.
    """
    if hasattr(kernels, "weights"):  # of choices
        found: NDArray[np.float64] = kernels.weights[:, int(value)]
        return found

    def up_to(edge: float) -> NDArray[np.float64]:
        """Return the mass of the kernels below an edge, before they are cut off at their bounds."""
        mass: NDArray[np.float64] = ndtr((edge - kernels.mu) / kernels.sigma)
        return mass

    scale = np.log if kernels.is_log else float
    if kernels.step:
        density = up_to(scale(value + kernels.step / 2)) - up_to(scale(value - kernels.step / 2))
    else:
        deviation = (scale(value) - kernels.mu) / kernels.sigma
        density = np.exp(-0.5 * deviation**2) / (np.sqrt(2 * np.pi) * kernels.sigma)
    within: NDArray[np.float64] = up_to(kernels.adapted_high) - up_to(kernels.adapted_low)
    return density / within
