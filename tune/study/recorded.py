"""The settings of a study as its ledger keeps them: with these it is read where its file or its data has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hidfd.config.schema import TrialConfig
from hidfd.errors import ConfigError
from tune.study.config import SearchConfig, StudyConfig
from tune.study.definition import Definition
from tune.study.search_space import build_space

IN_IDENTITY_UNLESS_EMPTY = ("further_objectives", "constraints", "points", "variants")
"""Fields of `study:` that an identity leaves out where they are empty."""


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
        trial = TrialConfig.model_validate(settings["trial"])
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
