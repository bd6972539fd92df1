"""A folder with MLflow's database that was moved, renamed or copied goes on where it is, and writes nowhere else."""

import logging
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow.tracking import MlflowClient

from hidfd.store.store import Store
from tests.tune.snapshots import study_snapshot
from tests.tune.students import keep_student
from tune.errors import TrackingError
from tune.report.champion import champion_of, config_of
from tune.tracking import moved_database
from tune.tracking.connection import connect
from tune.tracking.moved_database import ADDRESSES, follow_move
from tune.tracking.tracker import Tracker

NAMES = ["renamed", "with a space", "100%20 of it?", "Fotos für #1"]


@dataclass(frozen=True)
class Moved:
    """A folder that was `former` before: MLflow's database with a study, its champion, and places of others."""

    folder: Path
    former: Path

    @property
    def database(self) -> Path:
        return self.folder / "mlflow.db"

    def connect(self) -> MlflowClient:
        return connect(f"sqlite:///{self.database}")

    def addresses(self, database: Path | None = None) -> dict[tuple[str, str], list[str]]:
        """(table, column) -> addresses."""
        with closing(sqlite3.connect(database or self.database)) as connection:
            return {
                (table, column): [
                    row[0]
                    for row in connection.execute(
                        f"SELECT {column} FROM {table} WHERE {rows} AND {column} IS NOT NULL ORDER BY rowid"
                    )
                ]
                for table, column, rows in ADDRESSES
            }

    def strays(self) -> set[str]:
        """The addresses of the database that are not in its folder."""
        return {
            address
            for found in self.addresses().values()
            for address in found
            if not address.startswith((self.folder.as_uri(), str(self.folder)))
        }

    def copies(self) -> list[Path]:
        return sorted(self.folder.glob("mlflow.db.*"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """The folder as all tests copy it; what its addresses name is gone."""
    base = tmp_path_factory.mktemp("before")
    former = base / "former"
    whole = study_snapshot(base / "study", study={"seeds": [1001]})
    champion, store = champion_of(whole), Store.open(base / "store")
    assert champion is not None
    keep_student(store, config_of(champion.student, whole))
    tracker = Tracker(f"sqlite:///{former}/mlflow.db", "written")
    tracker.sync(whole)
    tracker.register(champion, whole, store, "small", "champion")
    client = tracker.client
    for name, location in (
        ("beside", f"{former}/mlruns/7"),
        ("elsewhere", f"file://{base}/elsewhere/mlartifacts/1"),
        ("never-moved", f"file://{former}/theirs/3"),
        ("cloud", "s3://bucket/former/mlartifacts/cloud"),
    ):
        client.create_run(client.create_experiment(name, location), run_name=name)
    (former / "mlruns" / "7").mkdir(parents=True)
    former.rename(base / "kept")
    return Moved(base / "kept", former)


def moved_to(folder: Path, kept: Moved) -> Moved:
    shutil.copytree(kept.folder, folder)
    return Moved(folder, kept.former)


@pytest.mark.parametrize("name", NAMES)
def test_a_moved_folder_goes_on_where_it_is(
    name: str, kept: Moved, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = moved_to(tmp_path / name, kept)
    client = moved.connect()
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"to {moved.folder}, from {kept.former}: " in said
    (copy,) = moved.copies()
    assert copy.name in said
    assert moved.addresses(copy) == moved.addresses(kept.database)
    for place, addresses in moved.addresses(copy).items():
        assert len(addresses) == len(moved.addresses()[place])

    experiment = client.get_experiment_by_name("written")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id], "tags.role = 'finalist'")[0].info.run_id
    assert "config.yaml" in [file.path for file in client.list_artifacts(run)]
    client.log_text(run, "later", "later.txt")
    (tmp_path / "new.txt").write_text("new")
    client.log_artifact(client.create_run(experiment.experiment_id).info.run_id, str(tmp_path / "new.txt"))
    assert len(list((moved.folder / "mlartifacts" / "written").rglob("*.txt"))) == 3  # one is the model's requirements
    source = client.get_model_version_download_uri("small", "1")
    model = mlflow.artifacts.download_artifacts(source, dst_path=str(tmp_path), tracking_uri=client.tracking_uri)
    assert (Path(model) / "data" / "model.pt2").is_file()
    assert not kept.former.exists()

    moved.connect()
    assert moved.copies() == [copy]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_places_of_others_are_left_alone(kept: Moved, tmp_path: Path) -> None:
    moved = moved_to(tmp_path / "moved", kept)
    locations = {found.name: found.artifact_location for found in moved.connect().search_experiments()}
    assert locations["beside"] == f"{moved.folder}/mlruns/7"
    base = kept.former.parent
    assert locations["elsewhere"] == f"file://{base}/elsewhere/mlartifacts/1"
    assert locations["never-moved"] == f"file://{kept.former}/theirs/3"
    assert locations["cloud"] == "s3://bucket/former/mlartifacts/cloud"
    assert {address.partition("/theirs")[0] for address in moved.strays()} == {
        f"file://{kept.former}",
        *(f"{locations['elsewhere']}{run}" for run in ("", *_runs(moved, "elsewhere"))),
        *(f"{locations['cloud']}{run}" for run in ("", *_runs(moved, "cloud"))),
    }


def _runs(moved: Moved, experiment: str) -> list[str]:
    client = moved.connect()
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return [f"/{run.info.run_id}/artifacts" for run in client.search_runs([found.experiment_id])]


def test_a_run_that_had_no_files_yet_writes_none_to_the_old_place(kept: Moved, tmp_path: Path) -> None:
    first = moved_to(tmp_path / "first", kept)
    client = first.connect()
    experiment = client.get_experiment_by_name("written")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id).info.run_id
    first.folder.rename(tmp_path / "second")
    second = Moved(tmp_path / "second", first.folder)
    second.connect().log_text(run, "later", "later.txt")
    assert list(second.folder.rglob("later.txt"))
    assert not first.folder.exists()


def test_a_copy_and_its_original_no_longer_share_anything(kept: Moved, tmp_path: Path) -> None:
    original = moved_to(tmp_path / "original", kept)
    original.connect()
    before = sorted(original.folder.rglob("*"))
    copy = moved_to(tmp_path / "copy", original)
    client = copy.connect()
    experiment = client.get_experiment_by_name("written")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        client.log_text(run.info.run_id, "later", "later.txt")
    assert sorted(original.folder.rglob("*")) == before
    assert str(original.folder) not in str(copy.strays())
    assert original.addresses()["experiments", "artifact_location"][1].startswith(original.folder.as_uri())


def test_a_database_that_was_moved_alone_still_finds_its_files(
    kept: Moved, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    original = moved_to(tmp_path / "original", kept)
    original.connect()
    (tmp_path / "alone").mkdir()
    shutil.copy(original.database, tmp_path / "alone" / "mlflow.db")
    caplog.clear()
    client = Moved(tmp_path / "alone", original.folder).connect()
    experiment = client.get_experiment_by_name("written")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id], "tags.role = 'finalist'")[0].info.run_id
    assert "config.yaml" in [file.path for file in client.list_artifacts(run)]
    assert "stay, since their files are still there and not here" in caplog.text


def test_moves_to_and_fro_leave_one_copy_for_each_place(kept: Moved, tmp_path: Path) -> None:
    here = moved_to(tmp_path / "here", kept)
    here.connect()
    for _ in range(3):
        for name in ("there", "here"):
            here = Moved(here.folder.rename(tmp_path / name), here.folder)
            follow_move(here.database)
    assert len(here.copies()) == 3


def test_a_folder_inside_the_former_one_and_back_again(kept: Moved, tmp_path: Path) -> None:
    outer = moved_to(tmp_path / "outer", kept)
    follow_move(outer.database)
    outer.folder.rename(tmp_path / "aside")
    outer.folder.mkdir()
    inner = Moved((tmp_path / "aside").rename(outer.folder / "inner"), outer.folder)
    follow_move(inner.database)
    assert f"{inner.folder.as_uri()}/mlartifacts/written" in inner.addresses()["experiments", "artifact_location"]
    for path in sorted(inner.folder.iterdir()):
        path.rename(outer.folder / path.name)
    follow_move(outer.database)
    assert f"{outer.folder.as_uri()}/mlartifacts/written" in outer.addresses()["experiments", "artifact_location"]
    assert str(inner.folder) not in str(outer.addresses())


def test_the_same_folder_by_another_name_is_no_move(kept: Moved, tmp_path: Path) -> None:
    moved = moved_to(tmp_path / "moved", kept)
    moved.connect()
    before = moved.addresses(), moved.copies()
    (tmp_path / "link").symlink_to(moved.folder)
    follow_move(tmp_path / "link" / "mlflow.db")
    assert (moved.addresses(), moved.copies()) == before


def test_of_several_that_open_it_at_once_one_rewrites_it(
    kept: Moved, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = moved_to(tmp_path / "moved", kept)
    together = threading.Barrier(4)
    failed: list[BaseException] = []

    def open_it() -> None:
        together.wait()
        try:
            follow_move(moved.database)
        except TrackingError as error:
            failed.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(caplog.records) == 1
    assert len(moved.copies()) == 1
    assert str(kept.former) not in str(moved.addresses()["runs", "artifact_uri"][:5])


@pytest.mark.parametrize("why", ["locked", "no copy"])
def test_what_cannot_be_rewritten_is_not_opened(
    why: str, kept: Moved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = moved_to(tmp_path / "moved", kept)
    before = moved.addresses()
    monkeypatch.setattr(moved_database, "WAIT_SECONDS", 0.05)
    with closing(sqlite3.connect(moved.database, isolation_level=None)) as somebody:
        if why == "locked":
            somebody.execute("BEGIN IMMEDIATE")
        else:
            monkeypatch.setattr(shutil, "copymode", _full)
        with pytest.raises(TrackingError, match="nothing in it was changed") as refused:
            moved.connect()
    assert len(str(refused.value).splitlines()) == 1
    assert moved.addresses() == before
    assert not list(moved.folder.glob("mlflow.db.before-move-????????"))
    monkeypatch.undo()
    moved.connect()
    assert str(kept.former) not in str(moved.addresses()["model_versions", "source"])


def _full(*_: object) -> None:
    raise OSError(28, os.strerror(28))
