"""Labels and shards are read correctly, and refused if they do not fit, before anything is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hidfd.data.image_set import open_images
from hidfd.errors import InputError, OutOfMemoryError
from hidfd.store.store import Store
from tests.hidfd.imports import class_folders, config_of, picture, png, run_import, write_parquet


def test_several_shards_are_read_in_order_with_labels_and_names(tmp_path: Path, store: Store) -> None:
    for shard in range(3):
        contents: list[bytes | None] = [png(picture(10 * shard + i)) for i in range(4)]
        write_parquet(tmp_path / "d" / f"train-{shard:05d}-of-00003.parquet", contents, [shard, 0, 1, 2])
    artifact = run_import(config_of(tmp_path / "d", tmp_path / "d"), store, "validation")
    images = open_images(artifact)
    assert images.required_labels.tolist() == [0, 0, 1, 2, 1, 0, 1, 2, 2, 0, 1, 2]
    assert images.paths[5] == "train-00001-of-00003.parquet:1"
    np.testing.assert_array_equal(images.pixels[5], np.asarray(picture(11)).transpose(2, 0, 1))
    assert artifact.meta["label_names"] == ["ant", "bee", "cat"]


def test_labels_of_the_candidates_are_never_read(tmp_path: Path, store: Store) -> None:
    write_parquet(tmp_path / "p.parquet", [png(picture(0))] * 2, [7, None])
    artifact = run_import(config_of(tmp_path / "p.parquet"), store)
    assert open_images(artifact).labels is None
    assert artifact.meta["label_names"] is None


def test_parquet_row_without_bytes_counts_as_broken(tmp_path: Path, store: Store) -> None:
    write_parquet(tmp_path / "p.parquet", [png(picture(0)), None, png(picture(1))], [0, 1, 2])
    config = config_of(tmp_path / "p.parquet", tmp_path / "p.parquet", max_broken_fraction=0.5)
    artifact = run_import(config, store, "validation")
    assert artifact.meta["broken"] == [{"path": "p.parquet:1", "reason": "no image bytes in this row"}]
    assert open_images(artifact).required_labels.tolist() == [0, 2]


def test_plain_bytes_column_is_taken_too(tmp_path: Path, store: Store) -> None:
    pq.write_table(pa.table({"img": [png(picture(0))], "fine_label": [2]}), tmp_path / "p.parquet")
    artifact = run_import(config_of(tmp_path / "p.parquet", tmp_path / "p.parquet"), store, "validation")
    assert open_images(artifact).required_labels.tolist() == [2]


def table_with_two_of_each(path: Path) -> Path:
    """Write a Parquet with two columns of images and two of labels."""
    columns = {"photo": [png(picture(0))], "mask": [png(picture(1))], "label": [0], "species": [2]}
    pq.write_table(pa.table(columns), path)
    return path


def test_columns_that_are_named_are_read_whatever_others_are_called(tmp_path: Path, store: Store) -> None:
    path = table_with_two_of_each(tmp_path / "p.parquet")
    config = config_of(path, path, image_column="mask", label_column="species")
    images = open_images(run_import(config, store, "validation"))
    np.testing.assert_array_equal(images.pixels[0], np.asarray(picture(1)).transpose(2, 0, 1))
    assert images.required_labels.tolist() == [2]
    others = config_of(path, path, image_column="photo", label_column="label")
    assert open_images(run_import(others, store, "validation")).required_labels.tolist() == [0], "not found again"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, r"no column `image` of encoded images .* it has photo .*; trial.data.image_column names another"),
        ({"image_column": "picture"}, r"no column `picture` of encoded images"),
        ({"image_column": "species"}, r"no column `species` of encoded images"),
        ({"image_column": "photo", "label_column": "photo"}, r"no integer column `photo`; it has .*species \(int64\)"),
    ],
)
def test_column_that_is_not_there_is_answered_with_those_that_are(
    tmp_path: Path, store: Store, settings: dict[str, Any], said: str
) -> None:
    path = table_with_two_of_each(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=said):
        run_import(config_of(path, path, **settings), store, "validation")


@pytest.mark.parametrize(("labels", "said"), [([0, 3], "is 3 in row 1"), ([0, -1], "is -1"), ([None, 0], "is missing")])
def test_label_outside_the_classes_is_refused(tmp_path: Path, store: Store, labels: list[Any], said: str) -> None:
    write_parquet(tmp_path / "p.parquet", [png(picture(0))] * 2, labels)
    with pytest.raises(InputError, match=rf"data.validation: .*p.parquet: label {said}.*expected 0..2"):
        run_import(config_of(tmp_path / "p.parquet", tmp_path / "p.parquet"), store, "validation")
    assert store.list() == ()


def test_missing_label_column_is_said_with_what_there_is(tmp_path: Path, store: Store) -> None:
    write_parquet(tmp_path / "p.parquet", [png(picture(0))], source_label=[1])
    with pytest.raises(InputError, match=r"no integer column `label`; it has image .*source_label \(int64\)"):
        run_import(config_of(tmp_path / "p.parquet", tmp_path / "p.parquet"), store, "validation")


def test_parquet_without_images_is_said_with_what_there_is(tmp_path: Path, store: Store) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"no column `image` .* it has text \(string\)"):
        run_import(config_of(tmp_path / "p.parquet"), store)


def test_parquet_without_rows_is_refused(tmp_path: Path, store: Store) -> None:
    write_parquet(tmp_path / "p.parquet", [])
    with pytest.raises(InputError, match=r"data.candidates: .*p.parquet: no images in it"):
        run_import(config_of(tmp_path / "p.parquet"), store)


@pytest.mark.parametrize("length", [0, 3, 500, -1])
def test_truncated_parquet_is_refused(tmp_path: Path, store: Store, length: int) -> None:
    path = write_parquet(tmp_path / "p.parquet", [png(picture(seed)) for seed in range(20)])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        InputError, match=r"p.parquet: not a whole Parquet file .*; it has [0-9,]+ bytes: copy it again"
    ):
        run_import(config_of(path), store)


def test_parquet_that_is_damaged_within_is_refused(tmp_path: Path, store: Store) -> None:
    path = write_parquet(tmp_path / "p.parquet", [png(picture(seed)) for seed in range(20)])
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a whole Parquet file"):
        run_import(config_of(path), store)
    assert store.list() == ()


@pytest.mark.parametrize(("asked", "error"), [(64, MemoryError), (2**62, InputError)])
def test_memory_that_pyarrow_cannot_have_is_no_damage_unless_no_machine_has_as_much(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, asked: int, error: type[Exception]
) -> None:
    write_parquet(tmp_path / "photos.parquet", [png(picture(n)) for n in range(3)])

    def read(*_: Any, **more: Any) -> None:
        raise pa.ArrowMemoryError(f"malloc of size {asked} failed")

    monkeypatch.setattr("hidfd.data.readers.pq.ParquetFile", read)
    with pytest.raises((error, OutOfMemoryError)):
        run_import(config_of(tmp_path / "photos.parquet"), store)


def test_class_folders_give_labels_in_alphabetical_order(tmp_path: Path, store: Store) -> None:
    folder = class_folders(tmp_path / "v", "cat", "ant", "bee")
    artifact = run_import(config_of(folder, folder), store, "validation")
    images = open_images(artifact)
    assert dict(zip(images.paths, images.required_labels.tolist(), strict=True)) == {
        "ant/x.png": 0,
        "bee/x.png": 1,
        "cat/x.png": 2,
    }
    assert artifact.meta["label_names"] == ["ant", "bee", "cat"]


def test_numbered_class_folders_mean_their_number(tmp_path: Path, store: Store) -> None:
    folder = class_folders(tmp_path / "v", "10", "2", "0")
    images = open_images(run_import(config_of(folder, folder, num_classes=11), store, "validation"))
    assert dict(zip(images.paths, images.required_labels.tolist(), strict=True)) == {
        "0/x.png": 0,
        "10/x.png": 10,
        "2/x.png": 2,
    }


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("ant", "bee"), r"2 class folders with images \(ant, bee\), expected 3"),
        (("a", "b", "c", "d"), "4 class folders"),
        (("0", "3"), "class folder 3, outside 0..2"),
    ],
)
def test_class_folders_that_do_not_fit_are_refused(
    tmp_path: Path, store: Store, names: tuple[str, ...], said: str
) -> None:
    folder = class_folders(tmp_path / "v", *names)
    with pytest.raises(InputError, match=said):
        run_import(config_of(folder, folder), store, "validation")


def test_labels_are_wanted_of_images_in_no_class_folder(tmp_path: Path, store: Store) -> None:
    folder = class_folders(tmp_path / "v", "ant", "bee", "cat")
    picture(0).save(folder / "loose.png")
    with pytest.raises(InputError, match=r"1 image of .* lies in no class folder \(first loose.png\)"):
        run_import(config_of(folder, folder), store, "validation")
