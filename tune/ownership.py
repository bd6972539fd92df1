"""The owner of what a study leaves in shared places: a random id of its ledger, in store, results folder and MLflow.

Two people may call their studies the same and share a store or an MLflow server. The name alone would let one of them
overwrite and delete what the other has built. So a run compares ids before it writes anything.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hidfd.config.schema import TrialConfig
from hidfd.config.storage import redacted
from hidfd.formatting import plural
from hidfd.pipeline.graph import kept_digests
from hidfd.store.disk import store_errors
from hidfd.store.store import Store
from tune.errors import OtherLedger, TrackingError
from tune.ledger.ledger import Ledger
from tune.tracking.connection import tracking_errors
from tune.tracking.tracker import Tracker

MARK = "ledger.json"
"""File in a results folder that names the ledger whose study writes there."""

UNCLAIMED = "unclaimed"
"""Ending of the name under which the store keeps references that no ledger has claimed."""


def owner_of(ledger: Ledger, address: str, *, epoch: int) -> dict[str, Any]:
    """Return the owner that a ledger writes into shared places: its id, its epoch, and where it lies.

    Args:
        ledger: of the study.
        address: `storage.ledger`.
        epoch: of the run that writes.
    """
    path = address.removeprefix("sqlite:///")
    where = redacted(address) if "://" in path else f"{socket.gethostname()}:{Path(path).expanduser().absolute()}"
    return {"ledger": ledger.id, "epoch": epoch, "where": where}


def digests_of(ledger: Ledger, base: TrialConfig) -> set[str]:
    """Return the digests of all that a ledger's tasks and the trial of its study file make and read."""
    of_tasks = {digest for task in ledger.tasks() for digest in (task.key, *kept_digests(task.spec.config))}
    return of_tasks | kept_digests(base)


class SharedPlaces:
    """The places that a study shares with others by its name: store, results folder, MLflow.

    Args:
        name: of the study.
        store: of artifacts.
        folder: of results.
        tracker: of the study, with the id of its ledger.
        address: `storage.ledger`.
    """

    def __init__(self, name: str, store: Store, folder: Path, tracker: Tracker, address: str) -> None:
        self.name, self.store, self.folder, self.tracker, self.address = name, store, folder, tracker, address

    def check(self, ledger: Ledger, note: Callable[[str], None]) -> None:
        """Refuse a ledger whose name another one has taken, before anything is written.

        Args:
            ledger: not claimed yet.
            note: called with a line for people where MLflow cannot be asked.

        Raises:
            OtherLedger: another ledger, or a newer copy of this one, has written under the study's name.
        """
        ours = owner_of(ledger, self.address, epoch=ledger.num_claims + 1)
        for place, other in self._others(ledger, note):
            if other["ledger"] == ledger.id:
                raise OtherLedger(
                    f"study {self.name!r}: this ledger ({ours['where']}, last run {ledger.num_claims}) is an older "
                    f"copy of the one that wrote into {place} ({other['where']}, run {other['epoch']}); nothing was "
                    f"written. Run the study there; or, if that ledger is lost, go on with this one: add --adopt to "
                    f"this command"
                )
            raise OtherLedger(
                f"study {self.name!r}: {place} has what another study of this name left there, whose ledger is "
                f"{other['where']} ({other['ledger']}); this one is {ours['where']} ({ledger.id}). Nothing was "
                f"written. Give this study another `name:`; or, if that ledger is lost or was moved here, take over "
                f"what it left: add --adopt to this command"
            )

    def adopt(self, ledger: Ledger, note: Callable[[str], None]) -> int:
        """Take over what other ledgers have left under the study's name, and say what that is.

        Returns:
            The highest epoch of newer copies of this ledger, above which it must be claimed so that those are the
            older ones from here on; 0 if there are none.

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        newest = 0
        for place, other in self._others(ledger, note):
            newest = max(newest, other["epoch"] if other["ledger"] == ledger.id else 0)
            note(f"taking over {place} from the ledger {other['where']} ({other['ledger']})")
        with tracking_errors(self.tracker.uri):
            num_runs = self.tracker.adopt()
        if num_runs:
            note(f"taken over in MLflow: {plural(num_runs, 'run')}")
        return newest

    def take(
        self, ledger: Ledger, base: TrialConfig, note: Callable[[str], None], *, adopts: bool = False
    ) -> dict[str, Any]:
        """Write the ledger's id into the results folder, and keep references in the store that are not its own.

        Args:
            ledger: claimed.
            base: the trial of the study file.
            note: called with a line for people.
            adopts: whether it was taken over from another ledger, or from a newer copy of this one.

        Returns:
            The owner to write the study's references with.
        """
        owner = owner_of(ledger, self.address, epoch=ledger.num_claims)
        known = self.store.references_of(self.name)
        stranger = known.owner is None or known.owner.get("ledger") != ledger.id
        if known.digests and (stranger or adopts):
            # Of a ledger that was taken over, or that an older version wrote and this one does not know.
            own = digests_of(ledger, base)
            left = known.digests - own
            if left:
                kept = f"{self.name}.{UNCLAIMED}"
                self.store.write_references(kept, left | self.store.references_of(kept).digests)
                note(
                    f"the store keeps {plural(len(left), 'artifact')} that this ledger does not know, as {kept}; "
                    f"`python -m hidfd store forget {kept}` lets go of what is kept there"
                )
            self.store.write_references(self.name, own, owner)  # also where nothing is left to run
        path = self.folder / MARK
        with store_errors("writing", path):
            path.write_text(json.dumps(owner, indent=1) + "\n", encoding="utf-8")
        return owner

    def _others(self, ledger: Ledger, note: Callable[[str], None]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Return the places that are not this ledger's, in words, with their owners."""
        of_store = self.store.references_of(self.name).owner
        for place, owner in (
            (f"the store {self.store.uri}", of_store),
            (f"the folder {self.folder}", _mark_in(self.folder)),
        ):
            if owner is not None and (owner["ledger"] != ledger.id or owner["epoch"] > ledger.num_claims):
                yield place, owner
        try:
            with tracking_errors(self.tracker.uri):
                owner = self.tracker.owner()
        except TrackingError as error:
            note(f"MLflow cannot be asked now whose the experiment {self.name!r} is: {error}")
            return
        if owner is not None and owner["ledger"] != ledger.id:
            yield f"MLflow at {redacted(self.tracker.uri)}", owner


def unmark(folder: Path, ledger: str | None) -> None:
    """Delete the mark of a ledger that is forgotten from its results folder, if there is one."""
    mark = _mark_in(folder)
    if mark is not None and mark["ledger"] == ledger:
        with store_errors("deleting", folder / MARK):
            (folder / MARK).unlink()


def _mark_in(folder: Path) -> dict[str, Any] | None:
    path = folder / MARK
    with store_errors("reading", path):
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8")
    try:
        owner = json.loads(text)
        return {"ledger": str(owner["ledger"]), "epoch": int(owner["epoch"]), "where": str(owner["where"])}
    except (ValueError, KeyError, TypeError):
        return None  # of something else, or cut off: the store and MLflow say whose the study is
