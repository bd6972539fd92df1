"""Synthetic images of generators of several ages as one set, for `trial.data.synthetic`.

    python -m benchmarks.mixed_ages studies/hybrids.yaml 2003 10000 20000 40000 FILE.parquet

Takes the synthetic images of generators of 10,000, 20,000 and 40,000 images on seed 2003 from the store of a study that
has run, and writes them into one Parquet file of PNGs, oldest last.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.data.image_set import open_images
from hidfd.pipeline.graph import plan
from hidfd.store.store import Store
from tune.opened_study import open_study


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("seed", type=int)
    parser.add_argument("ages", type=int, nargs="+", help="images that the generators have seen")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    opened = open_study(options.study)
    seeds = {f"seeds.{stage}": options.seed for stage in ("generation", "synthesis", "distillation")}
    trial = with_values(opened.definition.base, seeds)
    print(f"{options.output}: {write_ages(trial, opened.store, options.ages, options.output):,} images")


def write_ages(trial: TrialConfig, store: Store, ages: Sequence[int], output: Path) -> int:
    """Write the synthetic images of a trial's generators of several ages into one Parquet file; return their number.

    Args:
        trial: with the sha256 of every material.
        store: with the synthetic images of each age.
        ages: images that the generators have seen.
    """
    encoded = [
        image for age in ages for image in _encoded(with_values(trial, {"generation.target_images": age}), store)
    ]
    pq.write_table(pa.table({"image": [{"bytes": image} for image in encoded]}), output)
    return len(encoded)


def _encoded(trial: TrialConfig, store: Store) -> Iterator[bytes]:
    stage = plan(trial)["synthesis"]
    for pixels in open_images(store.get(stage.name, stage.digest)).pixels:
        picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        yield buffer.getvalue()


if __name__ == "__main__":
    main()
