"""Delete a study: its runs in MLflow, its artifacts in the store, its ledger."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tune.driver import Study
from tune.ledger.opening import database_at, drop_ledger
from tune.tracking.connection import tracking_errors
from tune.tracking.tracker import Tracker


@dataclass(frozen=True)
class Leftovers:
    """Counts of what `forget` deletes in ledger, store and MLflow.

    Attributes:
        num_tasks: in the ledger.
        num_artifacts, num_bytes: in the store, of artifacts that no other study refers to.
        num_runs: in MLflow.
    """

    num_tasks: int
    num_artifacts: int
    num_bytes: int
    num_runs: int

    def to_json(self) -> dict[str, int]:
        """Return plain JSON, under the names that programs read."""
        plain = asdict(self)
        return {"num_works": plain.pop("num_tasks"), **plain}


def forget(study: Study, *, really: bool) -> Leftovers:
    """Delete a study for good; models that were registered in MLflow and the folder of results are kept.

    The ledger and the study's references in the store go last, so that the same command finishes an interrupted one.

    Args:
        study: to delete.
        really: whether anything is deleted; if not, it is only counted.

    Returns:
        The amounts that were deleted, or would be.

    Raises:
        StudyLocked: a driver runs the study.
        LedgerError, StoreError, TrackingError: the ledger, the store or MLflow cannot be reached; the rest is kept.
    """
    name, ledger, uri = study.definition.name, study.file.storage.ledger, study.file.storage.tracking
    with database_at(ledger).lock(name):
        references = study.store.references()
        own = references.pop(name, frozenset())
        unshared = own.difference(*references.values())
        rows = [row for row in study.store.list() if row.digest in unshared]
        num_tasks = len(study.state().ledger.tasks())
        with tracking_errors(uri):
            num_runs = Tracker(uri, name).delete_runs(really=really)
        if really:
            study.store.remove(unshared, forgotten=name)
            study.store.drop_references(name)
            drop_ledger(ledger, name)
    return Leftovers(num_tasks, len(rows), sum(row.bytes for row in rows), num_runs)
