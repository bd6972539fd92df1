"""Pictures with a row of images for each class, and the names of the classes beside their rows."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hidfd.report.html import image

MAX_ROWS = 20
"""The most classes that a picture has rows of: the first ones."""

_PNG_START = struct.Struct(">8s8x2I")
"""Start of a PNG file: its signature, length and type of the first chunk, width and height in pixels."""


def picture_of_classes(path: Path, names: Sequence[str], classes: Sequence[int] | None = None) -> Markup:
    """Embed a picture, with the names of classes beside its rows; without them where it has another number of rows.

    Args:
        path: of a PNG file of square images of one size, a row for each class.
        names: of all classes, or their numbers.
        classes: the classes with a row, if not all; beyond `MAX_ROWS` the picture shows none.
    """
    shown = range(len(names)) if classes is None else classes
    rows = [names[k] for k in shown[:MAX_ROWS] if 0 <= k < len(names)]
    if not _has_rows(path, len(rows)):
        return image(path)
    labels = Markup("").join(Markup('<li title="{0}">{0}</li>').format(name) for name in rows)
    return Markup('<div class="rows"><ol>{}</ol>{}</div>').format(labels, image(path))


def generated_classes(stages: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Return the classes that a trial's generator makes; none where that is not known (yet).

    Args:
        stages: role -> small results of a stage.
    """
    found = stages.get("generation", {}).get("present_classes")
    return found if isinstance(found, list) and all(isinstance(k, int) for k in found) else []


def _has_rows(path: Path, count: int) -> bool:
    with path.open("rb") as file:
        start = file.read(_PNG_START.size)
    if count == 0 or len(start) < _PNG_START.size or not start.startswith(b"\x89PNG"):
        return False
    width, height = map(int, _PNG_START.unpack(start)[1:])
    return height > 0 and height % count == 0 and width % (height // count) == 0
