"""An export takes the place of nothing but an unchanged earlier export, and appears as a whole or not at all."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hidfd.errors import ConfigError, ExportError
from hidfd.export.target import BUNDLE, MAKER, check_target, new_folder


def export_into(folder: Path, text: str = "network") -> str | None:
    with new_folder(folder) as (temporary, replaced):
        (temporary / "student.onnx").write_text(text)
        bundle = {
            "made_by": MAKER,
            "student": "trial-1",
            "study": "mine",
            "format": "onnx",
            "sha256": {"student.onnx": hashlib.sha256(text.encode()).hexdigest()},
        }
        (temporary / BUNDLE).write_text(json.dumps(bundle))
    return replaced


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_export_makes_its_folder_or_fills_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("new", "empty", "link"):
        assert export_into(tmp_path / name) is None
        assert (tmp_path / name / "student.onnx").read_text() == "network"
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "empty", "link", "new"]


def test_earlier_export_is_replaced_and_said(tmp_path: Path) -> None:
    export_into(tmp_path / "out")
    (tmp_path / "out" / "__pycache__").mkdir()  # its example was run
    assert export_into(tmp_path / "out", "another") == "trial-1 of mine as onnx"
    assert (tmp_path / "out" / "student.onnx").read_text() == "another"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def add_notes(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def edit_network(folder: Path) -> None:
    (folder / "student.onnx").write_text("tuned by hand")


def claim_no_maker(folder: Path) -> None:
    (folder / BUNDLE).write_text('{"made_by": "somebody else"}')


def drop_bundle(folder: Path) -> None:
    (folder / BUNDLE).unlink()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (add_notes, "notes.txt"),
        (edit_network, "student.onnx"),
        (claim_no_maker, "no earlier export"),
        (drop_bundle, "no earlier export"),
    ],
)
def test_what_is_not_an_untouched_export_is_left_alone(
    change: Callable[[Path], None], word: str, tmp_path: Path
) -> None:
    export_into(tmp_path / "out")
    change(tmp_path / "out")
    before = content(tmp_path)
    for attempt in (check_target, export_into):
        with pytest.raises(ConfigError, match="name another folder") as refused:
            attempt(tmp_path / "out")
        assert word in str(refused.value)
    assert content(tmp_path) == before


def test_file_and_missing_parent_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is no folder, and nothing is overwritten; name another one"):
        check_target(tmp_path / "file")
    with pytest.raises(ConfigError, match=f"there is no folder {tmp_path}/missing; make it first"):
        check_target(tmp_path / "missing" / "out")


def export_half(folder: Path) -> None:
    with new_folder(folder) as (temporary, _):
        (temporary / "student.onnx").write_text("half")
        raise ExportError("it answers otherwise")


def test_failed_export_leaves_nothing_behind_and_the_earlier_one_in_place(tmp_path: Path) -> None:
    export_into(tmp_path / "out")
    before = content(tmp_path)
    for name in ("out", "new"):
        with pytest.raises(ExportError):
            export_half(tmp_path / name)
    assert content(tmp_path) == before


def test_disk_that_fails_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written .No space left on device."), new_folder(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def export_beside_another(folder: Path) -> None:
    with new_folder(folder):
        folder.mkdir()
        add_notes(folder)


def test_what_comes_into_the_folder_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="notes.txt"):
        export_beside_another(tmp_path / "out")
    assert content(tmp_path) == {"out/notes.txt": b"mine"}
