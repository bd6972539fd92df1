"""Several splits under one source are refused, and names that only look like splits are not."""

from itertools import combinations
from pathlib import Path

import pytest

from hidfd.data.sources import files_of
from hidfd.data.splits import splits_in
from hidfd.errors import InputError
from hidfd.store.store import Store
from tests.hidfd.imports import config_of, picture, png, run_import, write_parquet

WORDS = ("train", "training", "val", "valid", "validation", "dev", "test", "eval")


def images(*names: str) -> dict[str, str]:
    return splits_in(names, is_parquet=False)


def parquet(*names: str) -> dict[str, str]:
    return splits_in(names, is_parquet=True)


@pytest.mark.parametrize(("one", "other"), list(combinations(WORDS, 2)))
def test_any_two_names_of_splits_are_a_mixture_as_folders_and_as_files(one: str, other: str) -> None:
    expected = {one, other}
    assert set(parquet(f"default/{one}/0000.parquet", f"default/{other}/0000.parquet")) == expected
    assert set(parquet(f"{one}.parquet", f"{other}.parquet")) == expected
    assert set(parquet(f"data/{one}-00000-of-00002.parquet", f"data/{other}-00000-of-00001-0f.parquet")) == expected
    assert set(images(f"{one.title()}/cat/1.jpg", f"{other.upper()}/2.png")) == expected
    assert set(images(f"{one}_0001.png", f"{other}_0002.png", f"{one}_0003.png")) == expected


@pytest.mark.parametrize(
    "names",
    [
        ("train2017/1.jpg", "val2017/1.jpg"),
        ("seg_train/cat/1.jpg", "seg_test/cat/1.jpg"),
        ("training_set/cats/1.jpg", "test_set/dogs/1.jpg"),
        ("trainset/1.jpg", "testset/1.jpg"),
        ("bottle/train/good/1.png", "bottle/test/broken/1.png"),
        ("a/train/1.png", "b/test/1.png"),
        ("dev/train/1.png", "dev/test/1.png"),
        ("cat/train_01.jpg", "cat/test_01.jpg", "dog/9.jpg"),
        ("train_cat_1.jpg", "test_cat_9.jpg", "test_dog_2.jpg"),
        ("COCO_train2014_0001.jpg", "COCO_val2014_0002.jpg"),
        ("train_8f3a77.png", "val_0b2c9d.png"),
        ("test/cat/1.png", "test/train/1.png", "val/cat/2.png"),
    ],
)
def test_images_of_several_splits_are_found(names: tuple[str, ...]) -> None:
    assert len(images(*names)) == 2


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.jpg", "train/2.jpg"),
        ("train/1.jpg", "car/2.jpg", "tram/3.jpg"),
        ("test/cat/1.jpg", "test/train/2.jpg"),
        ("test_tube/1.jpg", "train/2.jpg", "development/3.jpg", "valley/4.jpg", "training_shoe/5.jpg"),
        ("test_tube/1.jpg", "training_shoe/2.jpg"),
        ("test-1.jpg", "train-station.jpg", "evaluation form.jpg"),
        ("training_cat.jpg", "test_dog.jpg"),
        ("test-1.jpg", "train-2.jpg", *(f"photo-{number}.jpg" for number in range(8))),
        ("cat/test-1.jpg", "train/train-1.jpg"),
        ("trains.jpg", "tests.jpg", "devil.png", "value.png"),
        (),
    ],
)
def test_names_that_only_look_like_splits_are_none(names: tuple[str, ...]) -> None:
    assert images(*names) == {}


@pytest.mark.parametrize(
    "names",
    [
        ("train/0000.parquet", "train/0001.parquet"),
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
        ("trains.parquet", "tests.parquet"),
        ("part-0.parquet", "part-1.parquet"),
    ],
)
def test_parquet_of_one_split_is_no_mixture(names: tuple[str, ...]) -> None:
    assert parquet(*names) == {}


@pytest.mark.parametrize(
    "names",
    [
        ("default/partial-train/0000.parquet", "default/partial-test/0000.parquet"),
        ("mnist-train.parquet", "mnist-test.parquet"),
        ("train/0000.parquet", "test.parquet"),
        ("train.parquet", "test_of_may.parquet"),
    ],
)
def test_parquet_of_several_splits_is_found(names: tuple[str, ...]) -> None:
    assert len(parquet(*names)) == 2


@pytest.mark.parametrize(
    ("setting", "layout", "named"),
    [
        ("data.candidates", "default/{}/0000.parquet", "default/train"),
        ("data.test", "default/{}/0000.parquet", "default/test"),
        ("data.validation", "{}.parquet", "validation.parquet"),
        ("data.candidates", "data/{}-00000-of-00001.parquet", "data/train-*.parquet"),
    ],
)
def test_refusal_names_what_was_found_and_a_path_that_is_accepted(
    tmp_path: Path, setting: str, layout: str, named: str
) -> None:
    for split in ("train", "validation", "test"):
        write_parquet(tmp_path / layout.format(split), [png(picture(0))])
    with pytest.raises(InputError) as refused:
        files_of(tmp_path, f"trial.{setting}")
    text = str(refused.value)
    assert text.startswith(
        f"trial.{setting}: {tmp_path}: holds several splits (test, train, validation); name one, as in "
    )
    assert f"{tmp_path / named} (found {layout.format('test')}" in text or "(found default/test, " in text
    assert len(files_of(tmp_path / named).names) == 1


def test_pattern_that_takes_several_splits_is_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [png(picture(0))])
    with pytest.raises(
        InputError, match=r"/\*\.parquet: holds several splits \(test, train\); name one, as in .*/test"
    ):
        files_of(tmp_path / "*.parquet")
    assert files_of(tmp_path / "tr*.parquet").names == ("train.parquet",)


def test_folder_of_images_with_two_splits_is_no_pool_and_one_of_them_is(tmp_path: Path, store: Store) -> None:
    for split in ("Training", "Testing"):
        (tmp_path / "p" / split / "cat").mkdir(parents=True)
        picture(len(split)).save(tmp_path / "p" / split / "cat" / "1.png")
    with pytest.raises(
        InputError, match=r"several splits \(testing, training\); name one, as in .*/p/Training \(found"
    ):
        run_import(config_of(tmp_path / "p"), store)
    assert run_import(config_of(tmp_path / "p" / "Training"), store).meta["num_images"] == 1


def test_flat_folder_of_two_splits_says_to_part_them(tmp_path: Path) -> None:
    for name in ("train_1.png", "train_2.png", "test_1.png"):
        picture(0).save(tmp_path / name)
    with pytest.raises(InputError, match=r"\(test, train\); move the images of each into a folder of its own"):
        files_of(tmp_path, "trial.data.candidates")
