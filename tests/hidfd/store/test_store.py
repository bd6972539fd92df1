"""A store lists and removes what it made, and never touches other files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hidfd.errors import StoreError
from hidfd.store.object_store import RemoteBackend
from hidfd.store.store import Store
from tests.hidfd.stores import DIGEST, IDENTITY, OTHER, StoreFactory, build, names_below, remote_store, root_of


@pytest.mark.parametrize("uri", ["gopher://host/store", "s3://"])
def test_uri_that_is_no_store_is_refused_without_its_secrets(uri: str) -> None:
    with pytest.raises(StoreError, match=r"s3://BUCKET/PREFIX") as error:
        Store.open(uri.replace("://", "://user:hunter2@"))
    assert "hunter2" not in str(error.value)


def test_references_say_what_remove_must_spare(factory: StoreFactory) -> None:
    store = factory()
    build(store)
    build(store, OTHER)
    store.checkpoints(OTHER).save(100, lambda folder: (folder / "state.pt").touch())
    store.checkpoints(DIGEST).save(100, lambda folder: (folder / "state.pt").touch())
    store.write_references("fashion", [DIGEST])
    assert factory().references() == {"fashion": frozenset({DIGEST})}
    assert {(entry.kind, entry.digest, entry.referenced_by) for entry in store.list()} == {
        ("artifact", DIGEST, ("fashion",)),
        ("artifact", OTHER, ()),
        ("checkpoints", DIGEST, ("fashion",)),
        ("checkpoints", OTHER, ()),
    }
    assert {(entry.kind, entry.digest) for entry in store.remove(dry_run=True)} == {
        ("artifact", OTHER),
        ("checkpoints", OTHER),
    }
    assert store.find("teacher", OTHER) is not None
    store.remove()
    assert {entry.digest for entry in factory().list()} == {DIGEST}
    assert factory().get("teacher", DIGEST).path("weights.bin").read_bytes() == b"weights"
    assert factory().checkpoints(DIGEST).latest() is not None


def test_remove_by_name_refuses_what_a_study_refers_to(store: Store) -> None:
    build(store)
    build(store, OTHER)
    store.write_references("fashion", [DIGEST])
    with pytest.raises(StoreError, match=r"studies refer to it \(fashion\); nothing was removed"):
        store.remove([OTHER, DIGEST])
    assert len(store.list()) == 2
    store.drop_references("fashion")
    store.remove([DIGEST])
    assert [entry.digest for entry in store.list()] == [OTHER]


def test_record_of_opened_test_labels_is_never_removed(store: Store) -> None:
    build(store)
    with store.writer("opening", OTHER, {}) as writer:
        writer.path("test.json").write_text("{}")
        writer.commit({"test_accuracy": 0.9})
    store.remove()
    assert [entry.stage for entry in store.list()] == ["opening"]


def test_damaged_references_stop_a_removal(store: Store, tmp_path: Path) -> None:
    build(store)
    store.write_references("fashion", [DIGEST])
    [path] = root_of(tmp_path).rglob("references.json")
    path.write_text("{")
    with pytest.raises(StoreError, match="nothing can be removed safely"):
        store.remove()
    assert store.find("teacher", DIGEST) is not None


def test_study_name_cannot_lead_out_of_the_store(store: Store) -> None:
    with pytest.raises(StoreError, match="study name"):
        store.write_references("../../x", [])


def test_remove_spares_attempts_under_way_and_takes_those_of_dead_writers(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    script = (
        "import os, sys; from hidfd.store.store import Store\n"
        "with Store.open(sys.argv[1]).writer('teacher', 'd' * 64, {}) as a:\n"
        "    a.path('half').write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "store")], check=False)
    with store.writer("teacher", DIGEST, IDENTITY) as writer:
        writer.path("weights.bin").write_bytes(b"weights")
        assert [entry.kind for entry in store.list()] == ["leftover"]
        store.remove()
        writer.commit({})
    assert store.get("teacher", DIGEST).path("weights.bin").read_bytes() == b"weights"
    assert "half" not in names_below(tmp_path)


@pytest.mark.parametrize("jump_days", [-400, 0, 400])
def test_leftover_on_s3_is_one_by_the_clock_of_the_store_whatever_that_of_this_machine_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_days: int
) -> None:
    store, _ = remote_store(tmp_path)
    now, day = time.time(), 86_400
    for digest, age_days in ((DIGEST, 0.5), (OTHER, 2)):
        half = tmp_path / "bucket/prefix/store/teacher" / digest / "20260101T000000-00000000" / "half"
        half.parent.mkdir(parents=True)
        half.touch()
        os.utime(half, (now - age_days * day,) * 2)
    monkeypatch.setattr(time, "time", lambda: now + jump_days * day)
    assert [(entry.kind, entry.digest) for entry in store.list()] == [("leftover", OTHER)]


def test_a_store_on_s3_that_may_only_be_read_is_listed_without_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = remote_store(tmp_path)
    build(store)
    half = tmp_path / "bucket/prefix/store/teacher" / OTHER / "20260101T000000-00000000" / "half"
    half.parent.mkdir(parents=True)
    half.touch()

    def refuse(*_: object) -> None:
        raise StoreError("AccessDenied")

    monkeypatch.setattr(RemoteBackend, "write", refuse)
    assert [(entry.kind, entry.digest) for entry in store.list()] == [("artifact", DIGEST)]


def test_remove_never_touches_what_the_store_did_not_make(tmp_path: Path) -> None:
    mine = [tmp_path / "store" / name for name in ("notes.txt", "photos/2024/a.jpg", f"teacher/{DIGEST}/mine/b.txt")]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    store = Store.open(tmp_path / "store")
    build(store)
    store.remove()
    assert store.list() == ()
    assert all(path.read_text() == "mine" for path in mine)
