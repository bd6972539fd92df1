"""What stands in a shared store is data from outside: a wrong manifest is said, and leads nobody out of the store."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from hidfd.__main__ import main
from hidfd.errors import StoreError
from hidfd.pipeline.costs import Costs
from hidfd.store.object_store import RemoteBackend
from hidfd.store.store import Store
from tests.hidfd.stores import DIGEST, OTHER, StoreFactory, build, names_below, remote_store, root_of

SECRET = b"my thesis"
PLACES_OUTSIDE = ("..", "../../../victim", "/etc", "a/../../../../victim", "", "x\0y", "x\n")


def _manifest(root: Path, digest: str = DIGEST) -> Path:
    [path] = (root / "teacher" / digest).glob("manifest.json")
    return path


def _change(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _with_file(name: str) -> Callable[[dict[str, Any]], object]:
    record = {"sha256": hashlib.sha256(SECRET).hexdigest(), "bytes": len(SECRET)}
    return lambda manifest: manifest["files"].update({name: record})


@pytest.mark.parametrize("name", PLACES_OUTSIDE)
@pytest.mark.parametrize("place", ["attempt", "file"])
def test_name_in_a_manifest_that_leads_elsewhere_is_damage(
    factory: StoreFactory, tmp_path: Path, place: str, name: str
) -> None:
    build(factory())
    root = root_of(tmp_path)
    (root.parent / "victim").mkdir()
    (root.parent / "victim" / "thesis.tex").write_bytes(SECRET)
    change = _with_file(name) if place == "file" else lambda manifest: manifest.update(attempt=name)
    _change(_manifest(root), change)
    store = factory()
    for action in (lambda: store.find("teacher", DIGEST), store.list, store.remove, lambda: Costs.of(store)):
        with pytest.raises(StoreError, match=r"damaged manifest.*Delete .*run again"):
            action()
    assert names_below(root.parent / "victim") == ["thesis.tex"]
    assert "weights.bin" in names_below(root)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attempt", None),
        ("attempt", ["20260101T000000-00000000"]),
        ("attempt", "\u0662\u0660\u0662\u0666\u0660\u0661\u0660\u0661T000000-00000000"),
        ("stage", "distillation"),
        ("digest", OTHER),
        ("identity", []),
        ("files", {}),
        ("files", ["weights.bin"]),
        ("files", {"weights.bin": None}),
        ("files", {"weights.bin": {"sha256": "0" * 64, "bytes": "7"}}),
        ("files", {"weights.bin": {"sha256": "0" * 64, "bytes": True}}),
        ("files", {"weights.bin": {"sha256": "0" * 64, "bytes": -1}}),
        ("files", {"weights.bin": {"sha256": "0" * 64, "bytes": 7.5}}),
        ("files", {"weights.bin": {"sha256": "../x", "bytes": 7}}),
        ("files", {"weights.bin": {"sha256": "0" * 64, "bytes": 7, "mode": 7}}),
        ("meta", "fast"),
        ("meta", {"seconds": "fast"}),
        ("meta", {"seconds": -1}),
        ("meta", {"operations": 10**400}),
        ("meta", {"name": "\ud800"}),
        ("created", 2026),
        ("created", "[/red]"),
        ("environment", None),
        ("environment", {"device": 0}),
    ],
)
def test_manifest_of_another_shape_is_damage(store: Store, tmp_path: Path, key: str, value: Any) -> None:
    build(store)
    _change(_manifest(root_of(tmp_path)), lambda manifest: manifest.update({key: value}))
    with pytest.raises(StoreError, match=rf"damaged manifest .*{key}|damaged manifest .*(surrogates|device)"):
        store.find("teacher", DIGEST)


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "{}", "[" * 100_000, '{"meta": NaN}', "\xff\xfe", ""])
def test_manifest_that_is_no_json_object_is_damage(store: Store, tmp_path: Path, content: str) -> None:
    build(store)
    _manifest(root_of(tmp_path)).write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreError, match="damaged manifest"):
        store.find("teacher", DIGEST)


def test_remote_file_name_with_dots_writes_nothing_outside_the_cache(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    (bucket / "evil").mkdir(parents=True)
    (bucket / "evil" / "images.parquet").write_bytes(SECRET)
    backend = RemoteBackend(fs.LocalFileSystem(), str(bucket / "store"), "s3://bucket/store", tmp_path / "cache")
    build(Store(backend))
    _change(_manifest(bucket / "store"), _with_file("../../../../evil/images.parquet"))
    before = names_below(tmp_path)
    with pytest.raises(StoreError, match="damaged manifest"):
        Store(backend).find("teacher", DIGEST)
    assert names_below(tmp_path) == before


class FlatFileSystem:
    """A file system whose listing shows objects with any name, as S3's does."""

    def __init__(self, filesystem: Any, keys: list[str]) -> None:
        self._inner, self._keys = filesystem, keys

    def get_file_info(self, asked: Any) -> Any:
        found = self._inner.get_file_info(asked)
        if isinstance(asked, fs.FileSelector):
            keys = [key for key in self._keys if key.startswith(f"{asked.base_dir}/")]
            found = [*found, *(fs.FileInfo(key, fs.FileType.File, size=1) for key in keys)]
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("dots", ["..", "../..", "../../../../../victim", ".", ""])
def test_s3_key_with_dots_deletes_nothing_outside_the_cache(tmp_path: Path, dots: str) -> None:
    store, spy = remote_store(tmp_path)
    backend = store._backend
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "x").write_bytes(SECRET)
    folder = f"prefix/store/checkpoints/{DIGEST}/100"
    keys = [f"{folder}/{dots}/x", f"{folder}/manifest.json", f"prefix/store/teacher/{DIGEST}/{dots}/x"]
    backend.filesystem = FlatFileSystem(spy, [*keys, f"prefix/store/{dots}/{DIGEST}/x"])  # type: ignore[attr-defined]
    build(store, OTHER)
    store.checkpoints(OTHER).save(1, lambda folder: (folder / "state.pt").touch())
    store.write_references("fashion", [OTHER])
    store.checkpoints(DIGEST).clear()
    store.remove()
    assert store.get("teacher", OTHER).path("weights.bin").read_bytes() == b"weights"
    assert store.checkpoints(OTHER).latest() is not None
    assert (tmp_path / "victim" / "x").read_bytes() == SECRET


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/x", "a//x", "a/./x", "a\0"])
def test_backend_does_nothing_with_a_key_that_could_lead_out(store: Store, tmp_path: Path, key: str) -> None:
    backend = store._backend
    for action in (
        lambda: backend.read(key),
        lambda: backend.write(key, b"x"),
        lambda: backend.create(key, b"x"),
        lambda: backend.walk(key),
        lambda: backend.delete(key),
        lambda: backend.workspace(key),
    ):
        with pytest.raises(StoreError, match="lead out of the store"):
            action()
    assert names_below(tmp_path) == []


def test_damaged_manifest_is_said_and_passed_over_where_another_artifact_is_meant(
    factory: StoreFactory, tmp_path: Path
) -> None:
    build(factory(), meta={"seconds": 2.0, "operations": 8.0})
    build(factory(), OTHER)
    path = _manifest(root_of(tmp_path), OTHER)
    path.write_bytes(b"{")
    said: list[str] = []
    store = factory()
    assert [entry.digest for entry in store.list(said.append)] == [DIGEST]
    assert Costs.of(store, on_damaged=said.append).rate == 4.0
    assert len(said) == 2
    assert all(line.startswith("passed over: ") and "damaged manifest" in line for line in said)
    assert [entry.digest for entry in store.remove([DIGEST], on_damaged=said.append)] == [DIGEST]
    assert path.read_bytes() == b"{"
    assert "weights.bin" in names_below(path.parent), "what is damaged is not removed"


def test_commands_pass_a_damaged_manifest_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(tmp_path / "store")
    build(store)
    build(store, OTHER)
    _manifest(tmp_path / "store", OTHER).write_bytes(b"")
    for words, digests in ((["list", "--json"], [DIGEST]), (["remove", "--json"], [DIGEST]), (["list", "--json"], [])):
        assert main(["store", *words, "--store", str(tmp_path / "store")]) == 0
        said = capsys.readouterr()
        assert [entry["digest"] for entry in json.loads(said.out)] == digests
        assert said.err.count("passed over: ") == said.err.count("\n") == 1


def test_symbolic_link_leads_no_removal_out_of_the_store(tmp_path: Path) -> None:
    root, victim = tmp_path / "store", tmp_path / "victim"
    store = Store.open(root)
    attempt = build(store).attempt
    (victim / attempt).mkdir(parents=True)
    (victim / attempt / "thesis.tex").write_bytes(SECRET)
    (root / "teacher" / OTHER).mkdir()
    (root / "teacher" / OTHER / "20260101T000000-00000000").symlink_to(victim)
    (root / "teacher" / OTHER / "manifest.json").symlink_to(victim / attempt / "thesis.tex")
    (root / "cache" / "teacher").mkdir(parents=True)
    (root / "cache" / "teacher" / DIGEST).symlink_to(victim)
    with pytest.raises(StoreError, match="damaged manifest"):
        store.remove()
    (root / "teacher" / OTHER / "manifest.json").unlink()
    with pytest.raises(StoreError, match="symbolic link"):
        store.remove()
    assert names_below(victim) == ["thesis.tex"]


def test_attempt_that_is_a_symbolic_link_is_removed_without_what_it_names(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    attempt = build(store).attempt
    folder = tmp_path / "store" / "teacher" / DIGEST / attempt
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert store.get("teacher", DIGEST).path("weights.bin").read_bytes() == b"weights"
    store.remove()
    assert store.list() == ()
    assert names_below(tmp_path) == ["0001.png", "weights.bin"]


def test_store_and_its_folders_may_be_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "disk" / "checkpoints").mkdir(parents=True)
    (tmp_path / "disk" / "store").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk" / "store")
    (tmp_path / "store" / "checkpoints").symlink_to(tmp_path / "disk" / "checkpoints")
    store = Store.open(tmp_path / "store")
    build(store)
    store.checkpoints(DIGEST).save(100, lambda folder: (folder / "state.pt").touch())
    assert store.checkpoints(DIGEST).latest() is not None
    store.checkpoints(DIGEST).clear()
    store.remove()
    assert names_below(tmp_path) == []


@pytest.mark.parametrize("rows", [b"[1]\n", b"{\n", b"\xff\n", b'{"a": NaN}\n'])
def test_rows_that_are_no_objects_are_damage(store: Store, rows: bytes) -> None:
    with store.writer("generation", DIGEST, {}) as writer:
        writer.path("metrics.jsonl").write_bytes(rows)
        artifact = writer.commit({})
    with pytest.raises(StoreError, match=r"metrics.jsonl: a row is no JSON object.*Delete .*run again"):
        artifact.metrics()


@pytest.mark.parametrize("digests", [DIGEST, [DIGEST[:12]], [DIGEST, 7], {DIGEST: 1}, None, [[DIGEST]], ["../x"]])
def test_references_of_another_shape_stop_a_removal(store: Store, tmp_path: Path, digests: Any) -> None:
    build(store)
    store.write_references("fashion", [DIGEST])
    [path] = root_of(tmp_path).rglob("references.json")
    _change(path, lambda content: content.update(digests=digests))
    with pytest.raises(StoreError, match=r"damaged \(digests: .*nothing can be removed safely"):
        store.remove()
    assert store.find("teacher", DIGEST) is not None


def test_references_under_a_name_that_no_study_has_stop_a_removal(store: Store, tmp_path: Path) -> None:
    build(store)
    store.write_references("fashion", [DIGEST])
    studies = root_of(tmp_path) / "studies"
    (studies / "fashion").rename(studies / "[red]")
    with pytest.raises(StoreError, match="nothing can be removed safely"):
        store.remove()


def test_references_that_may_not_be_read_stop_a_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path / "store")
    build(store)
    store.write_references("fashion", [DIGEST])
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("/studies/fashion"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreError, match="permission denied"):
        store.remove()
    monkeypatch.undo()
    assert store.find("teacher", DIGEST) is not None


def test_references_written_while_the_store_is_listed_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, walk = store._backend, store._backend.walk

    def refer_and_build_at_once(prefix: str = "") -> Any:
        if not prefix and store.find("teacher", DIGEST) is None:
            store.write_references("fashion", [DIGEST])
            build(store)
        return walk(prefix)

    monkeypatch.setattr(backend, "walk", refer_and_build_at_once)
    store.remove()
    assert store.find("teacher", DIGEST) is not None


@pytest.mark.parametrize("name", ["x", "-1", "1e3", "007", "9" * 5000, "100-end-end", "\u0661\u0660\u0660", "100 "])
def test_folder_that_is_no_checkpoint_is_left_alone(tmp_path: Path, name: str) -> None:
    store = Store.open(tmp_path / "store")
    checkpoints = store.checkpoints(DIGEST)
    checkpoints.save(100, lambda folder: (folder / "state.pt").touch())
    folder = tmp_path / "store" / "checkpoints" / DIGEST / name[:200]
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    newest = checkpoints.latest()
    assert newest is not None
    assert newest.images == 100
    checkpoints.clear()
    assert names_below(tmp_path) == ["manifest.json"]


@pytest.mark.parametrize("name", PLACES_OUTSIDE)
@pytest.mark.parametrize("place", ["attempt", "file"])
def test_checkpoint_that_leads_elsewhere_is_skipped(
    factory: StoreFactory, tmp_path: Path, place: str, name: str
) -> None:
    checkpoints = factory().checkpoints(DIGEST)
    for images in (100, 200):
        checkpoints.save(images, lambda folder: (folder / "state.pt").write_bytes(b"state"))
    manifest = root_of(tmp_path) / "checkpoints" / DIGEST / "200" / "manifest.json"
    _change(manifest, _with_file(name) if place == "file" else lambda content: content.update(attempt=name))
    newest = factory().checkpoints(DIGEST).latest()
    assert newest is not None
    assert newest.images == 100
