"""Photos and labels that a CSV lists."""

from pathlib import Path

import numpy as np
import pytest

from hidfd.data.image_set import open_images
from hidfd.data.sources import content_sha256
from hidfd.errors import InputError
from hidfd.store.store import Store
from tests.hidfd.imports import config_of, picture, run_import


def listed(folder: Path, text: str, count: int = 4) -> Path:
    """Make photos `photos/0.png`, ... and a CSV beside them."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        picture(seed).save(folder / "photos" / f"{seed}.png")
    (folder / "list.csv").write_bytes(text.encode("utf-8-sig"))
    return folder / "list.csv"


def test_photos_and_labels_are_read_in_the_order_of_the_list(tmp_path: Path, store: Store) -> None:
    path = listed(tmp_path, "Label,path\ncat,photos/3.png\nant,photos/0.png\r\nbee, photos/1.png\n")
    artifact = run_import(config_of(path, path), store, "validation")
    images = open_images(artifact)
    assert images.required_labels.tolist() == [2, 0, 1]
    assert list(images.paths) == ["photos/3.png", "photos/0.png", "photos/1.png"]
    np.testing.assert_array_equal(images.pixels[0], np.asarray(picture(3)).transpose(2, 0, 1))
    assert artifact.meta["label_names"] == ["ant", "bee", "cat"]


def test_list_without_labels_is_a_pool(tmp_path: Path, store: Store) -> None:
    path = listed(tmp_path, 'filename,"a, b"\n"photos/1.png",x\nphotos/2.png,y\n')
    assert open_images(run_import(config_of(path), store)).labels is None
    with pytest.raises(InputError, match=r"labels are needed, but .*list.csv has no column `label`"):
        run_import(config_of(path, path), store, "validation")


def test_labels_that_are_numbers_are_those_of_the_classes(tmp_path: Path, store: Store) -> None:
    path = listed(tmp_path, "path,label\nphotos/0.png,2\nphotos/1.png,0\n")
    assert open_images(run_import(config_of(path, path), store, "validation")).required_labels.tolist() == [2, 0]


def test_content_is_that_of_the_photos_and_of_the_list_wherever_they_lie(tmp_path: Path) -> None:
    text = "path,label\nphotos/0.png,ant\nphotos/1.png,bee\n"
    first, moved = (content_sha256(listed(tmp_path / name, text)) for name in ("a", "b"))
    assert first == moved
    assert content_sha256(listed(tmp_path / "c", text.replace("bee", "cat"))) != first
    path = listed(tmp_path / "d", text)
    picture(9).save(tmp_path / "d" / "photos" / "1.png")
    assert content_sha256(path) != first


def test_photo_that_is_not_there_counts_as_broken(tmp_path: Path, store: Store) -> None:
    path = listed(tmp_path, "path\nphotos/0.png\nphotos/absent.png\n")
    artifact = run_import(config_of(path, max_broken_fraction=0.5), store)
    assert [row["path"] for row in artifact.meta["broken"]] == ["photos/absent.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no column `path` .* it has nothing"),
        ("name;label\nphotos/0.png;1\n", "names no column `path` .* it has name;label"),
        ("path,label\n", "no photos in it"),
        ("path,label\nphotos/0.png,ant\nphotos/1.png\n", "line 3 has no label"),
        ("path,label\n,ant\n", "line 2 has no path"),
        ('path\n"photos/0.png\n', "no CSV in UTF-8"),
        ("path,label\nphotos/0.png,ant\n", "has 1 label with images"),
        ("path,label\nphotos/0.png,7\n", "has the label 7, outside 0..2"),
    ],
)
def test_list_that_cannot_be_read_is_told_by_its_line(tmp_path: Path, store: Store, text: str, said: str) -> None:
    path = listed(tmp_path, text)
    with pytest.raises(InputError, match=rf"trial.data.validation.*list\.csv.*{said}"):
        run_import(config_of(path, path), store, "validation")
