"""Cut Fashion-MNIST once, by a fixed seed, into the parts that the project's own studies use.

    python -m studies.fashion_data SOURCE_FOLDER

SOURCE_FOLDER holds Fashion-MNIST as Parquet in the Hugging Face layout: `train-*.parquet` and `test-*.parquet`. The
train split becomes the teacher's part, the candidate pool and the validation images, pairwise disjoint; of the test
split some images are taken. What ships in the repository goes to `studies/data/fashion/`, the rest to
`.hidfd/data/fashion/`. The cut is a function of the seed and of the order of the source, so that whoever runs it again
gets the same images.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from hidfd.data.decoding import pixel_hash
from hidfd.errors import HidfdError, InputError

SEED = 28
NUM_TEACHER = 48_000
NUM_POOL = 10_000
NUM_POOL_SHIPPED = 4_000
NUM_VALIDATION = 2_000
NUM_TEST_SHIPPED = 3_000

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "studies" / "data" / "fashion"
LOCAL = ROOT / ".hidfd" / "data" / "fashion"


@dataclass(frozen=True)
class Split:
    """Decoded images of one split.

    Attributes:
        pixels: n x 28 x 28 uint8.
        labels: n int64, 0..9.
        class_names: of the ten labels.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: list[str]

    def take(self, positions: NDArray[np.int64]) -> Split:
        """Return the images at these positions, in this order."""
        return Split(self.pixels[positions], self.labels[positions], self.class_names)


def pixel_hashes(pixels: NDArray[np.uint8]) -> list[bytes]:
    """Return `hidfd.data.decoding.pixel_hash` of every image of n x height x width.

    Each has 8 bytes, the highest first, so that bytes sort as numbers.
    """
    return [pixel_hash(image[:, :, None]).to_bytes(8, "big") for image in pixels]


def read_split(folder: Path, name: str) -> Split:
    """Read all shards `<name>-*.parquet` of a folder.

    Raises:
        InputError: there is no shard.
    """
    shards = sorted(folder.glob(f"{name}-*.parquet"))
    if not shards:
        raise InputError(f"{folder}: no {name}-*.parquet; expected Fashion-MNIST in the Hugging Face layout")
    table = pa.concat_tables([pq.read_table(shard, columns=["image", "label"]) for shard in shards])
    coded = table["image"].combine_chunks().field("bytes").to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("L")) for png in coded])
    features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
    return Split(pixels, table["label"].to_numpy().astype(np.int64), list(features["label"]["names"]))


def first_positions(hashes: list[bytes], excluded: set[bytes]) -> NDArray[np.int64]:
    """Return the positions of the images that neither occur earlier in the split nor are excluded."""
    seen = set(excluded)
    positions = []
    for position, name in enumerate(hashes):
        if name not in seen:
            seen.add(name)
            positions.append(position)
    return np.array(positions, dtype=np.int64)


def write_parquet(path: Path, split: Split, *, with_labels: bool) -> int:
    """Write the Hugging Face layout with optimised PNGs, which Parquet need not compress again.

    Returns:
        The file's size in bytes.
    """
    images = [{"bytes": encode_png(image), "path": None} for image in split.pixels]
    columns: dict[str, pa.Array] = {
        "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    }
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if with_labels:
        columns["label"] = pa.array(split.labels, pa.int64())
        features["label"] = {"names": split.class_names, "_type": "ClassLabel"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table, path, compression="none", use_dictionary=["label"] if with_labels else False, write_statistics=False
    )
    return path.stat().st_size


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return the smallest PNG that Pillow makes of height x width grey pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def cut(source: Path, shipped: Path = SHIPPED, local: Path = LOCAL) -> None:
    """Make every part and print one line for each.

    Args:
        source: folder with both splits.
        shipped: folder for the parts that the repository holds.
        local: folder for the others.

    Raises:
        InputError: the folder lacks a split, or holds too few distinct images.
    """
    train, test = read_split(source, "train"), read_split(source, "test")
    train_hashes = pixel_hashes(train.pixels)
    distinct = first_positions(train_hashes, excluded=set())
    unseen = first_positions(pixel_hashes(test.pixels), excluded=set(train_hashes))
    for name, found, wanted in (
        ("train", len(distinct), NUM_TEACHER + NUM_POOL + NUM_VALIDATION),
        ("test", len(unseen), NUM_TEST_SHIPPED),
    ):
        if found < wanted:
            raise InputError(f"{source}: {found} distinct {name} images, but the parts need {wanted}")

    random = np.random.Generator(np.random.PCG64(SEED))
    order, test_order = random.permutation(distinct), random.permutation(unseen)
    teacher, pool, validation = np.split(
        order[: NUM_TEACHER + NUM_POOL + NUM_VALIDATION], [NUM_TEACHER, NUM_TEACHER + NUM_POOL]
    )
    for path, split, with_labels in (
        (local / "teacher.parquet", train.take(teacher), True),
        (local / "pool-full.parquet", train.take(pool), False),
        (shipped / "pool.parquet", train.take(pool[:NUM_POOL_SHIPPED]), False),
        (shipped / "validation.parquet", train.take(validation), True),
        (shipped / "test.parquet", test.take(test_order[:NUM_TEST_SHIPPED]), True),
    ):
        size = write_parquet(path, split, with_labels=with_labels)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name:20} {len(split.labels):6,} images {size:11,} bytes  sha256 {digest}")
    hashes = shipped / "teacher-hashes.bin"
    hashes.write_bytes(b"".join(sorted(train_hashes[position] for position in teacher)))
    print(f"{hashes.name:20} {NUM_TEACHER:6,} hashes {hashes.stat().st_size:11,} bytes")


def main(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    if len(arguments) != 1:
        print("usage: python -m studies.fashion_data SOURCE_FOLDER", file=sys.stderr)
        return 2
    try:
        cut(Path(arguments[0]))
    except HidfdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
