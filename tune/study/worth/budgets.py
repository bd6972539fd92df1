"""The students that `study.worth` asks for: hybrid and real-only over the same budgets, and a longer real-only one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from hidfd.config.schema import TrialConfig
from hidfd.pipeline.network_sizes import unknown_networks
from tune.study.config import REAL_ONLY, StudyConfig
from tune.study.search_space import changed
from tune.study.task import task_specs

MARGIN = 1.5
"""Operations of the longest real-only student over those of the longest hybrid one with its generator. Seconds per
operation differ between generator and student, and nothing is extrapolated beyond what real-only has cost."""


@dataclass(frozen=True)
class WorthBudget:
    """A student budget of one arm.

    Attributes:
        arm: `hybrid`: the study's own `trial:`; `real-only`: the same on its collected images alone.
        steps: of the student.
        values: dotted path -> value, where the trial differs from the study's own `trial:`.
    """

    arm: Literal["hybrid", "real-only"]
    steps: int
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of its row and, with the seed, of its students' folders."""
        return f"{self.arm}-{self.steps}-steps"


def worth_budgets(study: StudyConfig, base: TrialConfig) -> list[WorthBudget]:
    """Return the budgets of both arms, hybrid first; none where the study does not ask, or operations are not known.

    Args:
        study: the section `study:`.
        base: the section `trial:`, with the sha256 of every material; it must have a generator.
    """
    if not study.worth or unknown_networks(base):
        return []
    hybrid = [_hybrid(steps, base) for steps in study.worth]
    real_only = [_real_only(steps, study, base) for steps in study.worth]
    longest = changed(base, hybrid[-1].values)
    operations = sum(spec.operations for spec in task_specs(longest)[1:])  # both arms need the collection
    per_step = task_specs(changed(base, real_only[-1].values))[-1].operations / study.worth[-1]
    return [*hybrid, *real_only, _real_only(math.ceil(MARGIN * operations / per_step), study, base)]


def problems_of_worth(study: StudyConfig, base: TrialConfig) -> Iterator[str]:
    """Yield a message where `study.worth` asks a trial without a generator of its own, or takes a variant's name."""
    if not study.worth:
        return
    if not (base.uses_generator and base.uses_real_images):
        if base.method != "hidfd":
            reason = f"its method trains none that is stored (trial.method: {base.method})"
        elif base.data.synthetic is not None:
            reason = "its synthetic images are given (trial.data.synthetic)"
        elif not base.uses_generator:
            reason = "it trains none (trial.synthesis.num_images: 0)"
        else:
            reason = "its students see no real images beside it (trial.distillation.inflation: 0)"
        yield (
            f"study.worth: asks when the generator of `trial:` pays beside real images alone, and {reason}; describe "
            f"the hybrid trial in `trial:`, or take study.worth out"
        )
        return
    if unknown := unknown_networks(base):
        yield (
            f"study.worth: shares out operations, and those of {' and '.join(unknown)} are not known yet; "
            f"`python -m hidfd import FILE` builds it once, and finds them"
        )
    names = {f"{arm}-{steps}-steps" for arm in ("hybrid", "real-only") for steps in study.worth}
    for name in sorted(names.intersection(study.variants)):
        yield f"study.variants.{name}: study.worth has a row of that name; give the variant another one"


def _hybrid(steps: int, base: TrialConfig) -> WorthBudget:
    return WorthBudget("hybrid", steps, {"distillation.target_images": steps * base.distillation.batch_images})


def _real_only(steps: int, study: StudyConfig, base: TrialConfig) -> WorthBudget:
    values = {**REAL_ONLY, **study.controls.real_only_values}
    return WorthBudget("real-only", steps, {**values, **_hybrid(steps, base).values})
