"""Parquet files of images, as the GPU script reads them."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def write_images(path: Path, count: int, *, labels: bool, colour: int = 0) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), (colour, 0, 0)).save(picture, "PNG")
    columns: dict[str, Any] = {"image": [{"bytes": picture.getvalue(), "path": None}] * count}
    if labels:
        columns["label"] = [number % 10 for number in range(count)]
    pq.write_table(pa.table(columns), path)
