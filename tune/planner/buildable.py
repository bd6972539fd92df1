"""Settings of a study that its material cannot give, as far as the store or the files tell. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from hidfd.config.schema import TrialConfig
from hidfd.data.image_set import open_pixel_hashes
from hidfd.data.readers import num_rows
from hidfd.data.sources import files_of
from hidfd.errors import ConfigError, InputError
from hidfd.pipeline.graph import plan
from hidfd.store.store import Store
from tune.study.definition import Definition
from tune.study.search_space import changed


def check_buildable(definition: Definition, store: Store) -> None:
    """Check that the pool has enough images for the study's own trial, and for what is searched and given.

    Args:
        definition: of the study.
        store: its import of the candidates tells how many are distinct; without one the files are counted.

    Raises:
        ConfigError: names every end of a range, and every given point, that asks for more.
    """
    base = definition.base
    pool = _count_distinct(base, store)
    if pool is None:
        return
    problems = [
        f"{where}: needs {needed:,} distinct images (trial.collection.num_images {config.collection.num_images:,} and "
        f"trial.collection.holdout_images {config.collection.holdout_images:,}), and trial.data.candidates has {pool:,}"
        for where, config in _asked(definition)
        if (needed := config.collection.num_images + config.collection.holdout_images) > pool
    ]
    if problems:
        most = pool - base.collection.holdout_images
        problems.append(f"collect more images, or ask for at most {max(most, 0):,} beside this hold-out")
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _asked(definition: Definition) -> Iterator[tuple[str, TrialConfig]]:
    """Yield the trials of which the study is made up at its ends, each with the place that asks for it."""
    varies = [path for path in definition.space.parameters if path.startswith("collection.")]
    if not varies:
        yield "trial.collection", definition.base
    given: list[tuple[str, dict[str, Any]]] = [
        (f"search.{path}: {value!r}", {path: value})
        for path in varies
        for value in definition.space.parameters[path].edges()
    ]
    given += [(f"study.points[{n}]", dict(point)) for n, point in enumerate(definition.study.points) if varies]
    for where, values in given:
        with suppress(ConfigError):  # it does not fit together, so its trial ends by itself
            yield where, changed(definition.base, values)


def _count_distinct(config: TrialConfig, store: Store) -> int | None:
    """Return how many candidates there are at most; without duplicates and labelled images if they are imported."""
    stages = plan(config)
    roles = (role for role in stages["collection"].inputs if role != "teacher")
    imports = {role: store.find(stages[role].name, stages[role].digest) for role in roles}
    candidates = imports.pop("candidates")
    if candidates is not None:
        hashes = np.unique(open_pixel_hashes(candidates))
        for labelled in imports.values():
            if labelled is not None:
                hashes = hashes[~np.isin(hashes, open_pixel_hashes(labelled))]
        return len(hashes)
    material = config.data.candidates
    if material.path is None:
        return None
    try:
        files = files_of(material.path)
        if files.kind == "images":
            return len(files.names)
        return num_rows(files) if files.kind == "parquet" else None
    except InputError:
        return None
