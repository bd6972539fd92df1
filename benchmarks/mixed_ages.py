"""Synthetic images of generators of several ages as one set, for `trial.data.synthetic`.

    python -m benchmarks.mixed_ages studies/hybrids.yaml 2003 10000 20000 40000 FILE.parquet

Takes the synthetic images of generators of 10,000, 20,000 and 40,000 images on seed 2003 from the store of a study that
has run, and writes them into one Parquet file of PNGs, oldest last.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hidfd.config.paths import with_values
from hidfd.data.image_set import open_images
from hidfd.pipeline.graph import plan
from tune.opened_study import open_study


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("seed", type=int)
    parser.add_argument("ages", type=int, nargs="+", help="images that the generators have seen")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    encoded = list(_encoded(options.study, options.seed, options.ages))
    pq.write_table(pa.table({"image": [{"bytes": image} for image in encoded]}), options.output)
    print(f"{options.output}: {len(encoded):,} images")


def _encoded(study: str, seed: int, ages: list[int]) -> Iterator[bytes]:
    opened = open_study(study)
    for age in ages:
        seeds = {f"seeds.{stage}": seed for stage in ("generation", "synthesis", "distillation")}
        trial = with_values(opened.definition.base, {**seeds, "generation.target_images": age})
        stage = plan(trial)["synthesis"]
        images = open_images(opened.store.get(stage.name, stage.digest))
        for pixels in images.pixels:
            picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            yield buffer.getvalue()


if __name__ == "__main__":
    main()
