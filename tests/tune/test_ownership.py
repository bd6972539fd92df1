"""What studies of one name leave in shared places stays its ledger's, until somebody takes it over on purpose."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

from hidfd.store.store import Store
from tests.hidfd.stores import build
from tests.tune.world import World, definition
from tune.errors import LedgerError, OtherLedger
from tune.ledger.ledger import Ledger
from tune.ledger.opening import copy_ledger, mark_forgotten, open_ledger
from tune.ownership import SharedPlaces, unmark
from tune.planner.state import StudyState
from tune.planner.task_table import TaskOrigin
from tune.tracking.tracker import Tracker


@dataclass
class NoRuns(Tracker):
    """MLflow with an experiment of a given owner, and nothing in it."""

    uri: str = "http://nowhere"
    study_name: str = "mine"
    found: dict[str, str] | None = None
    is_away: bool = False
    adopted: int = 0

    def owner(self) -> dict[str, str] | None:
        if self.is_away:
            raise ConnectionError("refused")
        return self.found

    def adopt(self) -> int:
        self.adopted += 1
        return 3


@dataclass
class Person:
    """Somebody with a study called `mine`, a ledger and a results folder, at a shared store."""

    store: Store
    folder: Path
    ledger: Ledger = field(default_factory=lambda: Ledger(InMemoryStorage(), "mine", "agreement"))
    tracker: NoRuns = field(default_factory=NoRuns)
    notes: list[str] = field(default_factory=list)
    ledger_path: str = ""

    def places(self) -> SharedPlaces:
        address = self.ledger_path or f"{self.folder}/ledger.db"
        return SharedPlaces("mine", self.store, self.folder, self.tracker, address)

    def run(self, *digests: str, adopts: bool = False) -> None:
        places = self.places()
        above = 0
        if adopts:
            above = places.adopt(self.ledger, self.notes.append)
        else:
            places.check(self.ledger, self.notes.append)
        self.ledger.claim(above)
        self.store.write_references(
            "mine", digests, places.take(self.ledger, STUDY.base, self.notes.append, adopts=adopts)
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def person(store: Store, name: str, tmp_path: Path) -> Person:
    (tmp_path / name).mkdir()
    return Person(store, tmp_path / name)


A, B = "a" * 64, "b" * 64

STUDY = definition({"sampler": "random", "num_students": 1})


def test_a_second_study_of_one_name_is_refused_before_anything_is_written_with_both_ways_on(
    store: Store, tmp_path: Path
) -> None:
    anna, ben = person(store, "anna", tmp_path), person(store, "ben", tmp_path)
    anna.run(A)
    with pytest.raises(OtherLedger) as refused:
        ben.run(B)
    message = str(refused.value)
    for words in ("anna/ledger.db", anna.ledger.id, "ben/ledger.db", ben.ledger.id, "another `name:`", "--adopt"):
        assert words in message
    assert store.references() == {"mine": frozenset({A})}
    assert list((tmp_path / "ben").iterdir()) == []
    assert ben.ledger.num_claims == 0


@pytest.mark.parametrize("place", ["folder", "MLflow"])
def test_each_shared_place_alone_is_enough_to_know_a_stranger(place: str, store: Store, tmp_path: Path) -> None:
    anna, ben = person(store, "anna", tmp_path), person(Store.open(tmp_path / "other"), "ben", tmp_path)
    anna.run(A)
    if place == "folder":
        ben.folder, ben.ledger_path = anna.folder, f"{tmp_path}/ben/ledger.db"
    else:
        ben.tracker.found = {"ledger": anna.ledger.id, "where": "anna's"}
    with pytest.raises(OtherLedger, match=place):
        ben.run(B)


def test_a_study_goes_on_from_wherever_its_ledger_was_moved(store: Store, tmp_path: Path) -> None:
    anna = person(store, "anna", tmp_path)
    anna.run(A)
    anna.ledger_path = f"{tmp_path}/moved.db"
    anna.run(A, B)
    assert store.references() == {"mine": frozenset({A, B})}
    assert json.loads((anna.folder / "ledger.json").read_text())["where"].endswith(f"{tmp_path}/moved.db")


def test_an_older_copy_of_a_ledger_is_refused_however_often_it_is_tried(store: Store, tmp_path: Path) -> None:
    anna = person(store, "anna", tmp_path)
    anna.run(A)
    copied = InMemoryStorage()
    optuna.copy_study(
        from_study_name="mine/work", from_storage=anna.ledger._storage, to_storage=copied, to_study_name="mine/work"
    )
    anna.run(A, B)
    copy = Person(store, anna.folder, Ledger(copied, "mine", "agreement"), ledger_path=f"{tmp_path}/copy.db")
    for _ in range(3):
        with pytest.raises(OtherLedger, match=r"older copy .*--adopt"):
            copy.run(A)
    copy.run(A, adopts=True)
    references = store.references()
    assert references["mine"] == frozenset({A})
    assert B in references["mine.unclaimed"], "what only the newer copy knows is lost to `store remove`"
    copy.run(A)
    with pytest.raises(OtherLedger, match="older copy"):
        anna.run(A, B)


def test_two_studies_of_one_name_and_collection_lose_nothing_when_one_takes_over(store: Store, tmp_path: Path) -> None:
    world = World()
    ben = person(store, "ben", tmp_path)
    ben.ledger = Ledger(world.storage, "mine", "agreement")
    ben.ledger.claim()
    tasks = StudyState(STUDY, ben.ledger).task_table
    tasks.add_trial(STUDY.base, TaskOrigin("search", "trial-0", {}))
    shared = ben.ledger.tasks()[0].key
    for owner in (None, {"ledger": "0" * 16, "epoch": 1, "where": "anna's"}):
        store.write_references("mine", [shared, A], owner)
        ben.run(shared, adopts=True)
        assert A in store.references()["mine.unclaimed"]
        assert shared not in store.references()["mine.unclaimed"]
        store.drop_references("mine.unclaimed")


def test_taking_over_holds_also_where_nothing_is_left_to_run(store: Store, tmp_path: Path) -> None:
    anna, ben = person(store, "anna", tmp_path), person(store, "ben", tmp_path)
    anna.run(A)
    ben.places().adopt(ben.ledger, ben.notes.append)
    ben.ledger.claim()
    ben.places().take(ben.ledger, STUDY.base, ben.notes.append, adopts=True)
    ben.places().check(ben.ledger, ben.notes.append)
    with pytest.raises(OtherLedger):
        anna.run(A)


def test_taking_over_says_what_and_lets_nothing_of_it_be_removed(store: Store, tmp_path: Path) -> None:
    anna, ben = person(store, "anna", tmp_path), person(store, "ben", tmp_path)
    build(store, A)
    anna.run(A)
    ben.run(B, adopts=True)
    said = "\n".join(ben.notes)
    assert f"taking over the store {store.uri} from the ledger" in said
    assert anna.ledger.id in said
    assert "3 runs" in said
    assert "store forget mine.unclaimed" in said
    assert store.references() == {"mine": frozenset({B}), "mine.unclaimed": frozenset({A})}
    assert store.remove() == ()
    ben.run(B)
    with pytest.raises(OtherLedger):
        anna.run(A)


def test_references_of_an_older_version_are_kept_for_whom_they_may_concern(store: Store, tmp_path: Path) -> None:
    store.write_references("mine", [A])
    person(store, "ben", tmp_path).run(B)
    assert store.references() == {"mine": frozenset({B}), "mine.unclaimed": frozenset({A})}


def test_mlflow_that_is_away_is_said_and_holds_up_nothing(store: Store, tmp_path: Path) -> None:
    anna = person(store, "anna", tmp_path)
    anna.tracker.is_away = True
    anna.run(A)
    (note,) = anna.notes
    assert note.startswith("MLflow cannot be asked now")
    assert store.references() == {"mine": frozenset({A})}


def test_the_mark_of_a_forgotten_ledger_goes_and_that_of_another_stays(store: Store, tmp_path: Path) -> None:
    anna = person(store, "anna", tmp_path)
    anna.run(A)
    unmark(anna.folder, "another")
    assert (anna.folder / "ledger.json").exists()
    unmark(anna.folder, anna.ledger.id)
    assert not (anna.folder / "ledger.json").exists()
    unmark(anna.folder, anna.ledger.id)


def test_damaged_mark_in_a_results_folder_is_overwritten(store: Store, tmp_path: Path) -> None:
    anna = person(store, "anna", tmp_path)
    (anna.folder / "ledger.json").write_text('{"ledger": ')
    anna.run(A)
    assert json.loads((anna.folder / "ledger.json").read_text())["ledger"] == anna.ledger.id


def test_a_study_that_was_forgotten_half_way_is_said_with_the_command_that_ends_it(tmp_path: Path) -> None:
    address = f"{tmp_path}/ledger.db"
    with open_ledger(address, "mine", "agreement") as ledger:
        first = ledger.id
    with open_ledger(address, "mine", "agreement") as ledger:
        assert ledger.id == first, "an id is made once"
    mark_forgotten(address, "mine")
    for opening in (lambda: copy_ledger(address, "mine", "agreement"), lambda: _open(address)):
        with pytest.raises(LedgerError, match=r"forget FILE --yes"):
            opening()
    assert copy_ledger(address, "mine", "agreement", half_forgotten=True).tasks() == []


def _open(address: str) -> Any:
    with open_ledger(address, "mine", "agreement") as ledger:
        return ledger
