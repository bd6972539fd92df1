"""Images of all places are read in the order in which they were named, under paths that open them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hidfd.data.readers import CHUNK_IMAGES, Columns
from hidfd.errors import InputError
from hidfd.prediction.images import encoded_images


def photo(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), shade, np.uint8)).save(path)
    return path


def names_at(*places: Path | str) -> list[str]:
    images = encoded_images([str(place) for place in places], 16, Columns())
    names = [name for chunk in images.chunks() for name in chunk.names]
    assert images.total == len(names)
    return names


@pytest.fixture(autouse=True)
def _in_a_folder_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("single.png", "other.png", "folder/b/2.png", "folder/a.png"):
        photo(Path(name))


def test_files_folders_and_lists_keep_their_order_and_their_paths() -> None:
    Path("list.csv").write_text("path\nsingle.png\nfolder/a.png\n")
    found = names_at("other.png", "folder", "single.png", "list.csv", Path("folder").absolute())
    whole = Path("folder").absolute()
    assert found == [
        "other.png",
        *("folder/a.png", "folder/b/2.png"),
        "single.png",
        *("single.png", "folder/a.png"),
        *(f"{whole}/a.png", f"{whole}/b/2.png"),
    ]
    assert all(Path(name).is_file() for name in found)
    assert names_at(".")[-1] == "single.png"


def test_rows_of_parquet_have_shard_and_row() -> None:
    content = Path("single.png").read_bytes()
    pq.write_table(pa.table({"picture": [content, content]}), Path("folder/photos.parquet"))
    images = encoded_images(["folder/photos.parquet"], 16, Columns("picture"))
    assert [name for chunk in images.chunks() for name in chunk.names] == [
        "folder/photos.parquet:0",
        "folder/photos.parquet:1",
    ]


def test_several_splits_in_one_place_are_read() -> None:
    for split in ("train", "test"):
        photo(Path(split, "1.png"))
        photo(Path("splits", split, "1.png"))
    assert names_at("splits") == ["splits/test/1.png", "splits/train/1.png"]


def test_many_files_are_read_in_chunks_of_several() -> None:
    many = [str(photo(Path(f"many/{number:04d}.png"))) for number in range(CHUNK_IMAGES + 3)]
    sizes = [len(chunk.names) for chunk in encoded_images(many, 16, Columns()).chunks()]
    assert sizes == [CHUNK_IMAGES, 3]
    assert names_at(*many) == many


@pytest.mark.parametrize(("place", "word"), [("nowhere", "no such file or folder"), ("empty", "no images in it")])
def test_place_without_images_is_named(place: str, word: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(InputError, match=f"IMAGES: {place}: {word}"):
        names_at("single.png", place)
