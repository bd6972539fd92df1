"""A reader finds complete artifacts or none, whatever happens to the writers, on a disk and on S3's code path."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hidfd.errors import StoreError
from hidfd.store.object_store import RemoteBackend
from hidfd.store.store import Store
from tests.hidfd.stores import (
    DIGEST,
    IDENTITY,
    OTHER,
    StoreFactory,
    begin_and_fail,
    build,
    names_below,
    remote_store,
    root_of,
)


def test_artifact_comes_back_as_it_was_written(factory: StoreFactory) -> None:
    build(factory())
    artifact = factory().get("teacher", DIGEST)
    assert artifact.path("weights.bin").read_bytes() == b"weights"
    assert artifact.path("grids/0001.png").read_bytes() == b"png"
    assert artifact.meta == {"accuracy": 0.5}
    assert artifact.identity == IDENTITY
    assert artifact.bytes == 10
    assert {"python", "torch", "hidfd"} <= artifact.environment["versions"].keys()


def test_find_of_what_was_never_built_is_none_and_get_says_what_to_run(store: Store) -> None:
    assert store.find("teacher", DIGEST) is None
    with pytest.raises(StoreError, match="not in the store; run"):
        store.get("teacher", DIGEST)


def test_metrics_rows_come_back_and_what_is_not_finite_is_null(store: Store) -> None:
    with store.writer("generation", DIGEST, IDENTITY) as writer:
        writer.metrics([{"images": 100, "generation/loss": 1.5}, {"images": 200, "generation/loss": float("nan")}])
        artifact = writer.commit({"worst": float("inf")})
    assert artifact.metrics()[0] == {"images": 100, "generation/loss": 1.5}
    assert artifact.metrics()[1]["generation/loss"] is None
    assert artifact.meta == {"worst": None}


def test_manifest_records_what_was_consumed_by_content(store: Store) -> None:
    teacher = build(store)
    with store.writer("collection", OTHER, IDENTITY) as writer:
        writer.path("x").write_bytes(b"x")
        writer.commit({}, device="cpu", consumed=[teacher])
    manifest = json.loads(store._backend.read(f"collection/{OTHER}/manifest.json") or b"")
    weights = hashlib.sha256(b"weights").hexdigest()
    assert manifest["consumed"][f"teacher/{DIGEST}"]["weights.bin"] == weights
    assert manifest["environment"]["device"] == "cpu"


def test_unfinished_attempt_is_invisible_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="bug"):
        begin_and_fail(store, b"half", RuntimeError("bug"))
    assert store.find("teacher", OTHER) is None
    assert names_below(tmp_path) == []


def test_local_manifest_is_linked_after_files_and_folders_reached_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []
    fsync, link = os.fsync, os.link

    def spy_fsync(descriptor: int) -> None:
        events.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def spy_link(source: Any, target: Any) -> None:
        events.append(("link", str(target)))
        link(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "link", spy_link)
    store = Store.open(tmp_path / "store")
    artifact = build(store)
    folder = tmp_path / "store" / "teacher" / DIGEST
    manifest = events.index(("link", str(folder / "manifest.json")))
    before = [path for event, path in events[:manifest] if event == "fsync"]
    attempt = folder / artifact.attempt
    for path in (attempt / "weights.bin", attempt / "grids" / "0001.png", attempt, attempt / "grids", folder):
        assert str(path) in before, path
    assert any(".manifest.json" in path for path in before), "the manifest's own content"
    assert ("fsync", str(folder)) in events[manifest:], "the manifest's name"


def test_remote_manifest_is_uploaded_last(tmp_path: Path) -> None:
    store, spy = remote_store(tmp_path)
    artifact = build(store)
    written = [path.removeprefix(f"prefix/store/teacher/{DIGEST}/") for event, path in spy.events if event == "write"]
    assert written[-1] == "manifest.json"
    assert set(written[:-1]) == {f"{artifact.attempt}/weights.bin", f"{artifact.attempt}/grids/0001.png"}


@pytest.mark.parametrize("fails", ["weights.bin", "manifest.json"])
def test_upload_that_breaks_off_leaves_no_artifact_and_is_repaired_by_the_next(tmp_path: Path, fails: str) -> None:
    store, spy = remote_store(tmp_path)
    spy.fail_on = fails
    with pytest.raises(StoreError, match=r"s3://bucket/prefix/store.*NETWORK_CONNECTION"):
        build(store)
    reader, _ = remote_store(tmp_path, "other-cache")
    assert reader.find("teacher", DIGEST) is None
    spy.fail_on = None
    build(store)
    assert reader.get("teacher", DIGEST).path("weights.bin").read_bytes() == b"weights"


def test_commit_that_fails_before_the_manifest_leaves_no_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "store")

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="Input/output error"):
        build(store)
    assert store.find("teacher", DIGEST) is None
    assert names_below(tmp_path) == []


KILLER = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from hidfd.store.store import Store

    root, identity, digest = Path(sys.argv[1]), {"seed": 0}, "d" * 64

    def build(store):
        with store.writer("teacher", digest, identity) as writer:
            writer.path("weights.bin").write_bytes(b"weights")
            writer.commit({})

    def kill_at(count):
        calls = 0
        def wrap(function):
            def wrapped(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            return wrapped
        for name in ("fsync", "link", "replace", "unlink", "mkdir", "open"):
            setattr(os, name, wrap(getattr(os, name)))

    for count in range(1, 200):
        folder = root / f"{count:03d}"
        child = os.fork()
        if child == 0:
            kill_at(count)
            build(Store.open(folder))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        store = Store.open(folder)
        found = store.find("teacher", digest)
        if found is not None:
            assert found.path("weights.bin").read_bytes() == b"weights", count
        build(store)
        assert store.get("teacher", digest).path("weights.bin").read_bytes() == b"weights", count
        store.remove([])
        store.remove()
        assert store.list() == (), count
        if status == 0:
            print(count - 1, "kills")
            break
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    else:
        raise AssertionError("it was killed every time")
    """
)


def test_kill_at_every_system_call_leaves_a_whole_artifact_or_none(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 10


def test_second_committer_discards_its_files_and_gets_the_winner(factory: StoreFactory, tmp_path: Path) -> None:
    first, second = factory(), factory()
    with first.writer("teacher", DIGEST, IDENTITY) as one, second.writer("teacher", DIGEST, IDENTITY) as two:
        one.path("weights.bin").write_bytes(b"first")
        two.path("weights.bin").write_bytes(b"second")
        winner = one.commit({"by": 1})
        loser = two.commit({"by": 2})
    assert loser == winner
    assert loser.meta == {"by": 1}
    assert loser.path("weights.bin").read_bytes() == b"first"
    root = root_of(tmp_path)
    assert names_below(root / "teacher" / DIGEST) == ["manifest.json", "weights.bin"]


def test_remote_writers_that_both_saw_no_manifest_keep_both_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = remote_store(tmp_path, "cache1")
    second, _ = remote_store(tmp_path, "cache2")
    early = build(first)
    monkeypatch.setattr(RemoteBackend, "create", lambda backend, key, content: backend.write(key, content) or True)
    late = build(second)
    assert first.get("teacher", DIGEST) == late
    shutil.rmtree(tmp_path / "cache1")
    assert early.path("weights.bin").read_bytes() == b"weights", "who read the earlier manifest can finish"


@pytest.mark.parametrize("damage", ["content", "length", "missing"])
def test_damaged_file_is_said_with_what_to_delete(factory: StoreFactory, tmp_path: Path, damage: str) -> None:
    build(factory())
    [path] = root_of(tmp_path).rglob("weights.bin")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"WEIGHTS" if damage == "content" else b"weigh")
    artifact = factory().get("teacher", DIGEST)
    with pytest.raises(StoreError, match=r"weights.bin: (damaged|missing).*Delete .*run again"):
        artifact.path("weights.bin")
    assert artifact.path("grids/0001.png").read_bytes() == b"png"


def test_damage_in_the_cache_of_a_remote_store_is_fetched_anew(tmp_path: Path) -> None:
    store, _ = remote_store(tmp_path)
    path = build(store).path("weights.bin")
    path.write_bytes(b"WEIGHTS")
    assert store.get("teacher", DIGEST).path("weights.bin").read_bytes() == b"weights"


def test_damaged_manifest_is_said(factory: StoreFactory, tmp_path: Path) -> None:
    build(factory())
    [manifest] = root_of(tmp_path).rglob("manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(StoreError, match="damaged manifest"):
        factory().find("teacher", DIGEST)


def test_file_that_the_manifest_does_not_list_is_not_read(store: Store) -> None:
    artifact = build(store)
    with pytest.raises(StoreError, match=r"lists no file 'other.bin'"):
        artifact.path("other.bin")


def test_many_writers_at_once_leave_one_artifact(factory: StoreFactory, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = [factory() for _ in range(8)]
        made = list(pool.map(build, stores))
    stored = factory().get("teacher", DIGEST)
    assert stored.path("weights.bin").read_bytes() == b"weights"
    assert len(list(root_of(tmp_path).rglob("manifest.json"))) == 1
    if (tmp_path / "store").exists():  # a disk decides between them; on S3 the last one wins
        assert {artifact.attempt for artifact in made} == {stored.attempt}
