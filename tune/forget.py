"""Delete a study: its runs in MLflow, its artifacts in the store, its ledger."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

from tune.errors import OtherLedger
from tune.ledger.ledger import Ledger
from tune.ledger.opening import copy_ledger, database_at, drop_ledger, mark_forgotten
from tune.opened_study import Study
from tune.ownership import digests_of, unmark
from tune.tracking.connection import tracking_errors
from tune.tracking.tracker import Tracker

_log = logging.getLogger(__name__)


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
    What another ledger has left under the same name is no part of it.

    Args:
        study: to delete.
        really: whether anything is deleted; if not, it is only counted.

    Returns:
        The amounts that were deleted, or would be.

    Raises:
        StudyLocked: a driver runs the study.
        LedgerError, StoreError, TrackingError: the ledger, the store or MLflow cannot be reached; the rest is kept.
    """
    name, uri, address = study.definition.name, study.file.storage.tracking, study.file.storage.ledger
    config = study.definition.study
    with database_at(address).lock(name):
        ledger = copy_ledger(address, name, config.objective, config.further_objectives, half_forgotten=True)
        keys = {task.key for task in ledger.tasks()}
        own, not_own = _references(study, ledger)
        others = (digests for study_name, digests in study.store.references().items() if study_name != name)
        unshared = own.difference(*others)
        rows = [row for row in study.store.list(_log.warning) if row.digest in unshared]
        try:
            with tracking_errors(uri):
                tracker = Tracker(uri, name, ledger.known_id)
                num_runs = tracker.delete_runs(keys, really=False)
        except OtherLedger as error:
            _log.warning("%s", error)
            tracker, num_runs = None, 0
        if really:
            mark_forgotten(address, name)
            with tracking_errors(uri):
                if tracker is not None:
                    tracker.delete_runs(keys, really=True)
                    tracker.release()
            study.store.remove(unshared, forgotten=name if own else None, on_damaged=_ignore)
            if own and not_own:
                study.store.write_references(name, not_own)
            elif own:
                study.store.drop_references(name)
            unmark(study.definition.folder, ledger.known_id)
            drop_ledger(address, name)
    return Leftovers(len(keys), len(rows), sum(row.bytes for row in rows), num_runs)


def _ignore(_: str) -> None:
    """Say nothing: what is passed over has been said when it was counted."""


def _references(study: Study, ledger: Ledger) -> tuple[frozenset[str], frozenset[str]]:
    """Return the digests that this ledger's study refers to, and those under its name that others refer to.

    References of older versions name no owner; then this ledger's are those that it knows.
    """
    name = study.definition.name
    references = study.store.references_of(name)
    if references.owner is None:
        own = references.digests.intersection(digests_of(ledger, study.definition.base))
        return own, references.digests - own
    if references.owner.get("ledger") == ledger.known_id:
        return references.digests, frozenset()
    _log.warning(
        "the store's references of %r belong to another ledger, %s: what they name is left alone",
        name,
        references.owner.get("where"),
    )
    return frozenset(), references.digests
