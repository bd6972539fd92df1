"""The shipped cut of Fashion-MNIST is as its README describes it: disjoint, balanced, small, a pool without labels."""

import hashlib
import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hidfd.errors import InputError
from studies import fashion_data

FOLDER = Path("studies/data/fashion")
COUNTS = {"pool": 4_000, "validation": 2_000, "test": 3_000}


def hashes_of(path: Path) -> set[bytes]:
    coded = pq.read_table(path, columns=["image"])["image"].combine_chunks().field("bytes").to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in coded])
    assert pixels.shape[1:] == (28, 28)
    assert pixels.dtype == np.uint8
    return set(fashion_data.pixel_hashes(pixels))


def test_parts_are_pairwise_disjoint_and_of_the_stated_counts() -> None:
    stored = (FOLDER / "teacher-hashes.bin").read_bytes()
    listed = [stored[start : start + 8] for start in range(0, len(stored), 8)]
    assert listed == sorted(listed)
    parts = {name: hashes_of(FOLDER / f"{name}.parquet") for name in COUNTS} | {"teacher": set(listed)}
    assert {name: len(hashes) for name, hashes in parts.items()} == COUNTS | {"teacher": 48_000}
    assert len(set.union(*parts.values())) == sum(COUNTS.values()) + 48_000


def test_pool_carries_no_labels() -> None:
    schema = pq.read_schema(FOLDER / "pool.parquet")
    assert schema.names == ["image"]
    assert b"ClassLabel" not in (schema.metadata or {})[b"huggingface"]


@pytest.mark.parametrize("name", ["validation", "test"])
def test_labelled_parts_hold_ten_classes_in_about_equal_shares(name: str) -> None:
    labels = pq.read_table(FOLDER / f"{name}.parquet", columns=["label"])["label"].to_numpy()
    shares = np.bincount(labels, minlength=10) / len(labels)
    assert len(shares) == 10
    assert shares.min() > 0.075
    assert shares.max() < 0.125


def test_shipped_parquet_is_at_most_five_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.parquet")) <= 5_000_000


def test_readme_states_the_files_that_are_there() -> None:
    rows = re.findall(r"`(\w+\.parquet)` \| ([\d,]+) \| ([0-9a-f]{64})", (FOLDER / "README.md").read_text())
    stated = {name: (int(size.replace(",", "")), digest) for name, size, digest in rows}
    for path in FOLDER.glob("*.parquet"):
        content = path.read_bytes()
        assert stated[path.name] == (len(content), hashlib.sha256(content).hexdigest())


def make_source(folder: Path, num_train: int, num_test: int) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", num_train), ("test", num_test)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        split = fashion_data.Split(pixels, np.arange(count) % 10, [str(number) for number in range(10)])
        fashion_data.write_parquet(folder / f"{name}-00000-of-00001.parquet", split, with_labels=True)
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("TEACHER", 48), ("POOL", 20), ("POOL_SHIPPED", 8), ("VALIDATION", 12), ("TEST_SHIPPED", 6)):
        monkeypatch.setattr(fashion_data, f"NUM_{name}", count)


@pytest.mark.usefixtures("small_parts")
def test_cut_is_the_same_again_and_leaves_repeated_images_out(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", num_train=90, num_test=10)
    train = next(source.glob("train-*"))
    rows = pq.read_table(train)
    pq.write_table(pa.concat_tables([rows.slice(0, 85), rows.slice(0, 5)]), train)  # five images occur twice
    for attempt in ("first", "second"):
        fashion_data.cut(source, tmp_path / attempt / "shipped", tmp_path / attempt / "local")
    for path in (tmp_path / "first").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()
    first = tmp_path / "first"
    parts = [hashes_of(first / "shipped" / f"{name}.parquet") for name in ("validation", "test")]
    parts += [hashes_of(first / "local" / f"{name}.parquet") for name in ("teacher", "pool-full")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 48 + 20 + 12 + 6
    assert hashes_of(first / "shipped" / "pool.parquet") < parts[-1]


@pytest.mark.usefixtures("small_parts")
def test_cut_of_too_few_images_is_refused_with_the_counts(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", num_train=70, num_test=10)
    with pytest.raises(InputError, match="70 distinct train images, but the parts need 80"):
        fashion_data.cut(source, tmp_path / "shipped", tmp_path / "local")


def test_cut_names_the_split_that_a_folder_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no train-\*\.parquet"):
        fashion_data.cut(tmp_path)
