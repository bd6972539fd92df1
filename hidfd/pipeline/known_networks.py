"""Networks from elsewhere as the store knows them: their sizes, and the files of the user's own. Torch-free."""

from __future__ import annotations

import hashlib

from hidfd.config.schema import TrialConfig
from hidfd.errors import StoreError
from hidfd.pipeline.graph import network_size_of, plan
from hidfd.pipeline.network_sizes import (
    CODE_ROLES,
    NetworkRole,
    NetworkSize,
    outside_networks,
    remember_code,
    remember_network,
)
from hidfd.store.store import Store

CODE = "network.py"
"""Name of the file in the artifact of a network of the user's own."""


def recall_networks(config: TrialConfig, store: Store) -> list[NetworkRole]:
    """Read what the store knows of a trial's networks from elsewhere into this process.

    Args:
        config: with the sha256 of every material.

    Returns:
        The networks of which it lacks the size or the file.

    Raises:
        StoreError: the store cannot be read.
    """
    lacking = []
    for role in outside_networks(config):
        if not _recall_code(config, store, role):
            lacking.append(role)
            continue
        stage = network_size_of(config, role)
        record = store.find(stage.name, stage.digest)
        if record is None:
            lacking.append(role)
            continue
        size = {name: record.meta[name] for name in NetworkSize.__dataclass_fields__}
        remember_network(stage.identity, NetworkSize(**size))
    return lacking


def _recall_code(config: TrialConfig, store: Store, role: NetworkRole) -> bool:
    """Read the file of a network of the user's own; return whether there is none to read, or it was read."""
    stage = plan(config).get(CODE_ROLES[role])
    if stage is None:
        return True
    artifact = store.find(stage.name, stage.digest)
    if artifact is None:
        return False
    sha256 = stage.identity["settings"]["source"]
    with artifact.reading():
        content = artifact.path(CODE).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:  # it is code, which will be run
        raise StoreError(f"{artifact.path(CODE)}: is not the file that the study names (sha256 {sha256})")
    remember_code(sha256, content.decode("utf-8-sig"))
    return True
