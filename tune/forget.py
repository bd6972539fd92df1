"""All that a study has left, taken away: its runs in MLflow, its part of the store, its ledger."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tune.driver import Study
from tune.ledger.opening import database_at, drop_ledger
from tune.tracking.tracker import Tracker, tracking_errors


@dataclass(frozen=True)
class Leftovers:
    """What there is of a study, or was.

    Attributes:
        num_tasks: in the ledger.
        num_artifacts, num_bytes: in the store, which no other study refers to.
        num_runs: in MLflow.
    """

    num_tasks: int
    num_artifacts: int
    num_bytes: int
    num_runs: int

    def to_json(self) -> dict[str, int]:
        """Plain JSON, under the names that programs read."""
        plain = asdict(self)
        return {"num_works": plain.pop("num_tasks"), **plain}


def forget(study: Study, *, really: bool) -> Leftovers:
    """Take a study away for good. Models that were registered in MLflow stay, and so does the folder of results.

    What says what is the study's goes last: where this is interrupted, the same command finds what is left.

    Args:
        really: False only counts.

    Raises:
        LedgerHeld: somebody runs it.
        LedgerError, StoreError, TrackingError: one of its places cannot be reached; what is left then stays.
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
