"""What a manifest says of how an artifact came about, beside its digest: the inputs that were really read."""

from __future__ import annotations

from hidfd.stages import Stage
from hidfd.store import Artifact, Store


def consumed(stage: Stage, store: Store) -> list[Artifact]:
    """The artifacts that a stage's inputs name, as far as they stand in the store."""
    found = []
    for role, digest in stage.inputs.items():
        # Imports are stored by what they are, not by the role that they have in a trial.
        for name in ("import", role):
            artifact = store.find(name, digest)
            if artifact is not None:
                found.append(artifact)
    return found
