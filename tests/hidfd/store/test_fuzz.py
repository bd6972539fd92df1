"""Random damage to a store ends in a message or in an artifact built anew, and never outside the store.

Each round has a seed of its own; `HIDFD_FUZZ_SEED=SEED` begins with that one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from hidfd.__main__ import main
from hidfd.errors import HidfdError
from hidfd.pipeline.costs import Costs
from hidfd.store.object_store import RemoteBackend
from hidfd.store.store import Store
from tests.hidfd.stores import DIGEST, OTHER, build

ROUNDS = 400
MAX_SECONDS = 15.0
"""Seconds after which no further round begins, for machines on which all of them would take too long."""

SMALL_FILES = ("manifest.json", "references.json", "state.pt", "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "remote"])
def test_random_damage_is_said_or_mended_and_nothing_outside_the_store_is_touched(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power is cut here, and disks are slow
    first, ends = int(os.environ.get("HIDFD_FUZZ_SEED", "0")), time.monotonic() + MAX_SECONDS
    template, said = tmp_path / "template", 0
    _fill(Store.open(template))
    for seed in range(first, first + ROUNDS):
        if time.monotonic() > ends:
            break
        place = _Place(tmp_path / str(seed), template, kind)
        before = place.outside()
        try:
            harmed = _harm(place.root, random.Random(seed), place.victim)
            said += _use(place, capsys)
            assert place.outside() == before
            if not any(name.startswith(("studies/", "teacher/")) for name in harmed):
                assert place.open().get("teacher", DIGEST).path("weights.bin").read_bytes() == b"weights"
        except BaseException as error:
            error.add_note(f"{kind} store, HIDFD_FUZZ_SEED={seed}")
            raise
        shutil.rmtree(place.folder)
    with capsys.disabled():
        print(f"\n{kind} store: seeds {first} to {seed}, {said} times something was said")
    assert said > 0


class _Place:
    """A copy of a store, and beside it files that nobody may touch."""

    def __init__(self, folder: Path, template: Path, kind: str) -> None:
        self.folder, self._kind = folder, kind
        self.root, self.victim, self._cache = folder / "all" / "store", folder / "all" / "victim", folder / "cache"
        shutil.copytree(template, self.root)
        for path in (self.victim / "thesis.tex", folder / "thesis.tex", folder / "import" / DIGEST / "thesis.tex"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("my thesis")

    def open(self) -> Store:
        if self._kind == "local":
            return Store.open(self.root)
        return Store(RemoteBackend(fs.LocalFileSystem(), str(self.root), "s3://bucket/store", self._cache))

    def outside(self) -> dict[str, tuple[int, bytes]]:
        """Return time of change and content of everything that lies beside the store and its cache."""
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return {
            str(path): (path.stat().st_mtime_ns, path.read_bytes())
            for path in paths
            if not path.is_relative_to(self.root) and not path.is_relative_to(self._cache)
        }


def _fill(store: Store) -> None:
    for digest in (DIGEST, OTHER):
        build(store, digest, meta={"accuracy": 0.5, "seconds": 2.5, "operations": 10})
        for images in (100, 200):
            store.checkpoints(digest).save(images, lambda folder: (folder / "state.pt").write_bytes(b"state"))
    with store.writer("generation", DIGEST, {}) as writer:
        writer.metrics([{"images": 1, "loss": 0.5}, {"images": 2, "loss": 0.25}])
        writer.commit({"seconds": 1})
    store.write_references("fashion", [DIGEST])
    store.write_references("fashion.trial-12345678", [DIGEST])


def _use(place: _Place, capsys: pytest.CaptureFixture[str]) -> int:
    """Do with a store all that can be done; return how often a message ended it. Anything but a message is raised."""
    store, said = place.open(), 0

    def read(stage: str, digest: str) -> None:
        artifact = store.find(stage, digest)
        if artifact is not None:
            artifact.metrics()
            for name in artifact.files:
                artifact.path(name)

    checkpoints = store.checkpoints(DIGEST)
    actions: list[Callable[[], object]] = [
        *(lambda stage=stage, digest=digest: read(stage, digest) for stage, digest in _artifacts()),
        store.references,
        lambda: Costs.of(store),
        checkpoints.latest,
        lambda: checkpoints.save(300, lambda folder: (folder / "state.pt").write_bytes(b"state")),
        lambda: checkpoints.clear(200),
        lambda: build(store, OTHER),
        lambda: store.remove(dry_run=True),
        store.remove,
        lambda: store.drop_references("fashion.trial-12345678"),
        lambda: store.remove(["f" * 64]),
    ]
    for action in actions:
        try:
            action()
        except HidfdError as error:
            said += 1
            str(error).encode()
    if place.root.exists() and place.open().uri == str(place.root):
        for words in (["list"], ["list", "--json"], ["remove", "--dry-run"], ["forget", "fashion"]):
            assert main(["store", *words, "--store", str(place.root)]) in (0, 2, 4)
        capsys.readouterr()
    return said


def _artifacts() -> Iterator[tuple[str, str]]:
    yield from (("teacher", DIGEST), ("teacher", OTHER), ("generation", DIGEST))


def _harm(root: Path, draws: random.Random, victim: Path) -> list[str]:
    """Damage one to three files or names of a store; return the paths that were touched, relative to its root."""
    harmed = []
    for _ in range(draws.randint(1, 3)):
        paths = sorted(
            path for path in root.rglob("*") if path.name in SMALL_FILES and path.is_file() and not path.is_symlink()
        )
        if not paths:
            break
        path = draws.choice(paths)
        harmed.append(path.relative_to(root).as_posix())
        content = path.read_bytes()
        match draws.choice(("bytes", "truncate", "flip", "json", "json", "json", "rename", "folder", "link")):
            case "bytes":
                path.write_bytes(draws.randbytes(draws.choice((0, 1, 16, 300))))
            case "truncate":
                path.write_bytes(content[: draws.randrange(len(content) + 1)])
            case "flip" if content:
                at = draws.randrange(len(content))
                path.write_bytes(content[:at] + draws.randbytes(1) + content[at + 1 :])
            case "json":
                _harm_json(path, draws, victim)
            case "rename":
                named = draws.choice([path, *path.relative_to(root).parents][:-1])
                _rename(root / named, draws)
            case "folder":
                path.unlink()
                path.mkdir()
            case "link":
                path.unlink()
                path.symlink_to(draws.choice((victim, victim / "thesis.tex", path, root)))
    return harmed


def _harm_json(path: Path, draws: random.Random, victim: Path) -> None:
    """Replace a value or a name anywhere in a JSON file, or nest it too deeply; leave other files alone."""
    with contextlib.suppress(ValueError):
        content = json.loads(path.read_bytes())
        nodes: list[tuple[Any, Any]] = [({"": content}, "")]
        for parent, key in nodes:
            value = parent[key]
            if isinstance(value, dict | list):
                nodes += [(value, inner) for inner in (value if isinstance(value, dict) else range(len(value)))]
        parent, key = draws.choice(nodes)
        replacement = draws.choice(_values(victim))
        if key == "":
            content = replacement
        elif isinstance(parent, dict) and draws.random() < 0.3:
            parent[draws.choice(_names(victim))] = parent.pop(key)
        else:
            parent[key] = replacement
        path.write_text(json.dumps(content) if draws.random() < 0.97 else "[" * 100_000)


def _rename(path: Path, draws: random.Random) -> None:
    name = draws.choice(("x", "0", "007", "-1", "100-end", "[red]", "\udcff", "a\nb", ".hidden", "e" * 64, "studies"))
    with contextlib.suppress(OSError):
        path.rename(path.with_name(name))


def _names(victim: Path) -> list[str]:
    return [
        "",
        ".",
        "..",
        "../..",
        "../../../victim",
        "../../../../import",
        str(victim),
        "x\0",
        "[/red]",
        "\ud800",
        "x",
    ]


def _values(victim: Path) -> list[Any]:
    numbers = (0, -1, 1.5, 10**400, 1e308, float("nan"), float("inf"))
    return [None, True, *numbers, [], {}, [[]], {"a": {"b": []}}, DIGEST, OTHER, "x" * 10_000, *_names(victim)]
