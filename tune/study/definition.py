"""The definition of a study: the sections of its file, checked against each other; or restored from its ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from hidfd.config.schema import TrialConfig, check_processes, check_shares
from hidfd.data.sources import materials
from hidfd.errors import ConfigError
from hidfd.pipeline.graph import OTHER_METHODS, versions_in_use
from hidfd.pipeline.stage_specs import result_settings
from tune.study.asha import rung_images
from tune.study.config import FRESH_SEED, REAL_ONLY, SearchConfig, StudyConfig
from tune.study.search_space import Space, build_space, changed
from tune.study.task import recorded_trial, task_specs
from tune.study.worth.budgets import WorthBudget, problems_of_worth, worth_budgets

FRESH_SEEDS = ("seeds.generation", "seeds.synthesis", "seeds.distillation")
"""Paths of the seeds that a fresh seed replaces; teacher and collection stay the same."""

OTHER_COMPARISONS = {
    "distillation.target_images": "it would no longer be compared at the same number of student steps",
    "distillation.batch_images": "it would no longer be compared at the same number of student steps",
    "distillation.architecture": "another network would be compared, not other images",
    "distillation.width": "another network would be compared, not other images",
    "distillation.head": "another network would be compared, not other images",
    "distillation.inflation": "it learns from the collected images alone, however often they appear",
}
"""Paths that `controls.real_only_values` may not have -> the reason."""

SEARCH_ROWS = ("hybrid", "best", "real-only", "synthetic-only", "plain-kd")
"""Names of the best trial and its controls in the comparison at the end of a search."""

IN_IDENTITY_UNLESS_EMPTY = ("further_objectives", "constraints", "points", "variants")
"""Fields of `study:` that an identity leaves out where they are empty."""


@dataclass(frozen=True)
class Definition:
    """A checked study, as the planner needs it.

    Attributes:
        name: name of the study.
        study, search: the sections `study:` and `search:`.
        base: the section `trial:`, with the sha256 of every material.
        space: the checked search space.
        folder: folder of the trials' folders and the study's report.
        file, command, tracking: for people: the study file, the command that goes on, the MLflow URI (redacted).
        resources: cpus, gpus and workers of one task.
        recorded_identity: the identity in the ledger from which the definition was restored, if it was.
    """

    name: str
    study: StudyConfig
    search: SearchConfig
    base: TrialConfig
    space: Space
    folder: Path
    file: str = ""
    command: str = ""
    tracking: str = ""
    resources: dict[str, float] = field(default_factory=dict)
    recorded_identity: dict[str, Any] | None = None

    @property
    def limit(self) -> int:
        """The largest number of search trials; 0 without a search."""
        if not self.search:
            return 0
        if self.study.sampler == "grid":
            return min(self.study.num_students, self.space.grid_size())
        return self.study.num_students

    @property
    def students_per_generator(self) -> int:
        """The least number of students per generator; a grid shares one while only downstream parameters change."""
        if self.search and self.study.sampler == "grid":
            return self.space.students_per_generator_of_grid()
        if self.study.sampler == "stage-aware":
            return 1 if self.space.upstream or self.search.has_fresh_seed else self.study.num_students
        return self.study.students_per_generator

    @property
    def rungs(self) -> tuple[int, ...]:
        """The numbers of student images at which the search's students are compared."""
        pruner, student = self.study.pruner, self.base.distillation
        if pruner.kind == "none":
            return ()
        return rung_images(
            student.target_images, student.batch_images, pruner.first_rung_fraction, pruner.reduction_factor
        )

    @cached_property
    def worth_budgets(self) -> list[WorthBudget]:
        """The student budgets of `study.worth`; none where the study does not ask when a generator pays."""
        return worth_budgets(self.study, self.base)

    @cached_property
    def shared_keys(self) -> frozenset[str]:
        """The key of the collection if every student of the study needs the same one; empty if they differ."""
        trials = [changed(self.base, values) for values in self.study.variants.values()]
        if self.study.worth:
            trials.append(self.base)
        if self.search:
            ends = [(path, end) for path, parameter in self.space.parameters.items() for end in parameter.edges()]
            trials += [self.base, *(changed(self.base, {path: end}) for path, end in ends)]
        keys = frozenset(task_specs(trial)[0].key for trial in trials)
        return keys if len(keys) == 1 else frozenset()

    @cached_property
    def trials_of_networks(self) -> list[TrialConfig]:
        """A trial with each combination of networks: that of `trial:`, and those of a search's choices and variants."""
        changes = [dict(values) for values in self.study.variants.values()]
        for path, parameter in self.search.items():
            if path.endswith(".architecture"):
                changes += [{path: choice} for choice in getattr(parameter, "choices", ())]
        named = [values for values in changes if any(path.endswith(".architecture") for path in values)]
        return [self.base, *(changed(self.base, values) for values in named)]

    @property
    def methods(self) -> set[str]:
        """The methods of the study's trials (`trial.method`)."""
        of_variants = (values.get("method", self.base.method) for values in self.study.variants.values())
        return {self.base.method, *map(str, of_variants)}

    def settings_of(self, params: dict[str, Any], group: int) -> dict[str, Any]:
        """Return everything that a search trial changes in the study's `trial:`.

        Args:
            params: dotted path -> value.
            group: number of the search trial whose generator it shares, which decides the seed where that is fresh.
        """
        if not self.search.has_fresh_seed:
            return params
        entropy = (self.base.seeds.generation, group)
        return params | {FRESH_SEED: int(np.random.SeedSequence(entropy).generate_state(1)[0]) >> 1}

    def with_seed(self, values: dict[str, Any], seed: int) -> TrialConfig:
        """Return the trial with overrides, on a fresh seed."""
        return changed(self.base, {**values, **dict.fromkeys(FRESH_SEEDS, seed)})

    def identity(self) -> dict[str, Any]:
        """Return the settings that all results of one study share; with other ones it would be another study.

        Left out are the numbers of students and seeds, the budgets of `worth`, and all that concerns the comparison at
        the end (finalists, controls, test labels): a study goes on with other ones.
        """
        if self.recorded_identity is not None:
            return self.recorded_identity
        study = self.study
        content: dict[str, Any] = {
            "study": {
                "objective": study.objective,
                "sampler": study.sampler,
                "seed": study.seed,
                "startup_students": study.startup_students,
                "students_per_generator": study.students_per_generator,
                "pruner": study.pruner.model_dump(exclude=None if study.pruner.margin else {"margin"}),
            },
            "search": self.search.model_dump(exclude_defaults=True),  # fields that come later change nothing
            "trial": result_settings(self.base),
            "stage_versions": dict(versions_in_use()),
        }
        for unused in set(OTHER_METHODS) - self.methods:  # so that a study of before, which knew none, is the same one
            content["trial"].pop(unused, None)
            content["stage_versions"].pop(unused, None)
        more = study.model_dump(mode="json", include={"further_objectives", "constraints", "points", "variants"})
        content["study"] |= {
            name: asked for name, asked in more.items() if asked
        }  # left out where empty, as in older studies
        if self.base.data.validation is not None and self.base.collection.leaves_out_validation:
            content["trial"]["collection"]["leaves_out_validation"] = True  # not so in studies that were begun before
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain


def define(
    name: str,
    study: StudyConfig,
    search: SearchConfig,
    base: TrialConfig,
    folder: Path,
    **shown: Any,
) -> Definition:
    """Check a study's sections against each other.

    Args:
        name: name of the study.
        study, search: the sections `study:` and `search:`.
        base: the section `trial:`, with the sha256 of every material.
        folder: folder for the results.
        shown: the other attributes of `Definition`.

    Raises:
        ConfigError: with every problem at once.
    """
    problems: list[str] = []
    if not search and not study.variants and not study.worth:
        problems.append("nothing to do: give `search:` parameters, `study.variants`, `study.worth`, or several of them")
    if study.objective == "validation_accuracy" and base.data.validation is None:
        problems.append(
            "study.objective: validation_accuracy needs labelled images in trial.data.validation; "
            "give them, or use objective: agreement, which needs no labels"
        )
    elif "validation_accuracy" in study.judged and base.data.validation is None:
        where = "further_objectives" if "validation_accuracy" in study.further_objectives else "constraints"
        problems.append(
            f"study.{where}.validation_accuracy: needs labelled images in trial.data.validation; give them, or leave "
            f"it out"
        )
    space, num_processes = Space({}, {}, {}), int(shown.get("resources", {}).get("workers", 1))
    try:
        space = build_space(search, study, base)
    except ConfigError as error:
        problems.append(str(error))
    try:
        batches = dict(batch for stage, batch in base.batches.items() if stage != "teacher")  # it may be built already
        check_shares(batches, num_processes)
        check_processes(base, num_processes)
    except ConfigError as error:
        problems.append(f"resources.num_workers: {error}")
    problems += [*_problems_of_real_only_values(study.controls.real_only_values, base), *problems_of_worth(study, base)]
    used = {base.seeds.generation, base.seeds.synthesis, base.seeds.distillation}
    if search and (stale := used.intersection(study.seeds)):
        problems.append(
            f"study.seeds: {min(stale)} is a seed of the search itself (trial.seeds); fresh seeds must be others"
        )
    own = materials(base)
    for variant, values in study.variants.items():
        if search and variant in SEARCH_ROWS:
            problems.append(f"study.variants.{variant}: a search has a row of that name; give the variant another one")
        try:
            trial = changed(base, values)
            check_processes(trial, num_processes)
            found = materials(trial)
        except ConfigError as error:
            problems.append(f"study.variants.{variant}: {error}")
            continue
        problems += [
            f"study.variants.{variant}: trial.{where}: a study imports its material once, for all its variants; "
            f"for other material write a second study file"
            for where, material in found.items()
            if material != own.get(where)
        ]
    if problems:
        raise ConfigError("\n".join(problems))
    return Definition(name, study, search, base, space, folder, **shown)


def _problems_of_real_only_values(values: Mapping[str, Any], base: TrialConfig) -> Iterator[str]:
    """Yield a message for each of `controls.real_only_values` that would not keep the comparison, or is not legal."""
    where = "study.controls.real_only_values"
    for path in values:
        if path in OTHER_COMPARISONS:
            yield f"{where}.{path}: not allowed there: {OTHER_COMPARISONS[path]}; take it out"
        elif not path.startswith("distillation."):
            yield f"{where}.{path}: expected a setting of the student (distillation. ...); take it out"
    try:
        changed(base, {**(REAL_ONLY if base.uses_real_images else {}), **values})
    except ConfigError as error:
        yield f"{where}: {error}"


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Yield `path: old -> new` for every leaf in which two JSON trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    elif old != new:
        yield f"{where}: {json.dumps(old)} -> {json.dumps(new)}"


def settings_of(definition: Definition) -> dict[str, Any]:
    """Return all settings of a study as plain JSON, for its ledger."""
    content = {
        "study": definition.study.model_dump(mode="json"),
        "search": definition.search.model_dump(mode="json"),
        "trial": definition.base.model_dump(mode="json"),
        "resources": definition.resources,
    }
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def restore_definition(
    name: str,
    identity: dict[str, Any],
    settings: Mapping[str, Any] | None,
    folder: Path,
    *,
    study_of_file: StudyConfig | None = None,
    **shown: Any,
) -> Definition:
    """Return the definition of a study as its ledger has it.

    Args:
        name: of the study.
        identity: the settings to which the ledger's search trials belong.
        settings: of its last run, as `settings_of` made them; None where an older version ran it.
        folder: for the results.
        study_of_file: section `study:` of the file, which says what an identity leaves out where there are no settings.
        shown: the other attributes of `Definition`.

    Raises:
        ConfigError: this version does not know the settings.
    """
    if settings is None:
        beside = study_of_file.model_dump(mode="json") if study_of_file else {}
        known = {key: value for key, value in beside.items() if key not in IN_IDENTITY_UNLESS_EMPTY}
        settings = {"study": known | identity["study"], "search": identity["search"], "trial": identity["trial"]}
    try:
        study = StudyConfig.model_validate(settings["study"])
        search = SearchConfig.model_validate(settings["search"])
        trial = recorded_trial(settings["trial"])
        space = build_space(search, study, trial)
    except (ValidationError, ConfigError) as error:
        if isinstance(error, ValidationError):
            found = error.errors()[0]
            words = f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
        else:
            words = str(error).partition("\n")[0]
        raise ConfigError(
            f"the ledger's study {name!r} has settings that this version does not know ({words}); use the version that "
            f"made it"
        ) from error
    resources = settings.get("resources", shown.pop("resources", {}))
    return Definition(
        name, study, search, trial, space, folder, **shown, resources=resources, recorded_identity=identity
    )
