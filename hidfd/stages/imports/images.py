"""The import of the user's images into the store, where they are known by their content.

Folders and Parquet (`hidfd.data.sources`) become one Parquet file of uint8 pixels (`hidfd.data.image_set`). Images are
read, decoded and written in a stream, so that a set may be larger than memory. With its sha256 in the study file a
material is looked for in the store first, and its path need not exist any more.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any, Literal

from hidfd.config.schema import DataConfig, Material
from hidfd.data.decoding import Decoded, decode, silent_pillow
from hidfd.data.image_set import IMAGES, ImageWriter
from hidfd.data.label_names import differing
from hidfd.data.object_path import REQUESTS
from hidfd.data.readers import Chunk, Columns, Encoded, folder_images, parquet_images
from hidfd.data.sources import located
from hidfd.errors import InputError, Stopped
from hidfd.formatting import part_of, plain, plural
from hidfd.pipeline.stage_specs import MATERIAL_SETTINGS, material_of
from hidfd.stages.context import StageContext
from hidfd.store.store import Artifact, ArtifactWriter

LISTED_BROKEN = 100
"""Number of broken images that a manifest names."""

SHOWN_BROKEN = 10
"""Number of broken images that are shown on the screen."""

SHOWN_NAMES = 10
"""Number of names of labels that a line shows."""

POLL_SECONDS = 0.5
"""Seconds between two questions whether to stop."""

MAX_THREADS = 4
"""Number of decoding threads. Pillow decodes outside the interpreter lock; the code around it gains from no more."""


def import_images(context: StageContext) -> Artifact:
    """Decode a material into the store, unless it is there.

    Args:
        context: the context of an import; the stage's settings say how images are fitted and whether labels are wanted.

    Returns:
        Artifact with `images.parquet` (`open_images` reads it); meta: num_images, num_broken, broken, shape,
        label_names, seconds.

    Raises:
        InputError: no images, an unreadable Parquet, labels that are missing or outside 0..K-1, too many broken files.
        Stopped: the observer asked for it; an import then starts anew.
    """
    started = time.monotonic()
    stage, config, observer = context.stage, context.config, context.observer
    found = context.store.find(stage.name, stage.digest)
    if found is not None:
        return found
    settings, where = stage.identity["settings"], f"trial.{MATERIAL_SETTINGS[stage.role]}"
    material = material_of(config, stage.role)
    assert material is not None
    files = located(material, settings["source"], where)
    if files.kind == "file":
        raise InputError(
            f"{where}: {material.path} is neither a folder nor Parquet; expected a folder of images, or Parquet with "
            f"an `image` column"
        )
    for words in files.left_out:
        observer.note(f"{stage.role}: left out: {words}")
    channels, side = settings["channels"], settings["image_size_pixels"]
    order = settings.get("label_order")
    given = (files, settings["num_classes"], channels * side * side, where, order)
    columns = Columns(config.data.image_column, config.data.label_column)
    encoded = folder_images(*given) if files.kind == "images" else parquet_images(*given, columns)
    if encoded.label_names is not None:
        for line in _labels_in_words(encoded.label_names, order, config.data):
            observer.note(f"{stage.role}: {line}")
    observer.stage_started(stage, encoded.total)

    def check_stop() -> None:
        stop = observer.should_stop()
        if stop is not None:
            raise Stopped(f"import of {stage.role}: stopped ({stop}); the same command imports it anew")

    def write(writer: ArtifactWriter) -> dict[str, Any]:
        broken: list[dict[str, str]] = []
        num_images = 0
        with ImageWriter(writer.path(IMAGES), (channels, side, side)) as images:
            for chunk, decoded in decoded_in_order(encoded, channels, side, settings["fit"], check_stop):
                good = [i for i in range(len(chunk.names)) if i not in decoded.broken]
                labels = None if chunk.labels is None else chunk.labels[good]
                images.write(decoded, labels, [chunk.names[i] for i in good])
                num_images += len(good)
                broken += [{"path": chunk.names[i], "reason": reason} for i, reason in decoded.broken.items()]
                num_broken = len(broken)
                observer.advanced(stage, num_images + num_broken, encoded.total, {"import/broken": float(num_broken)})
                check_stop()
        lines = _broken_in_words(broken, _write_list(broken, context.folder, stage.role))
        _check_broken(lines, len(broken), encoded.total, config.data, where, material)
        if broken:
            observer.note(
                f"import of {stage.role}: skipped {part_of(len(broken), encoded.total, 'image')} that cannot be read:"
            )
            for line in lines:
                observer.note(line)
        return {
            "num_images": num_images,
            "num_broken": len(broken),
            "broken": broken[:LISTED_BROKEN],
            "shape": [channels, side, side],
            "label_names": None if encoded.label_names is None else list(encoded.label_names),
            "seconds": round(time.monotonic() - started, 3),
        }

    with silent_pillow():
        return context.keep(write, is_computed=False)


def _labels_in_words(names: Sequence[str | None], order: Sequence[int] | None, data: DataConfig) -> list[str]:
    """Return lines on how labels are mapped to classes, where they are not the numbers of the classes as they stand.

    Args:
        names: of the classes, as the material has them; None for one that it lacks.
        order: the class of each label; None = its number.
    """
    lines = []
    if order is not None:
        moved = [f"{_label_in_words(names[k] or '', label)} -> {k}" for label, k in enumerate(order) if label != k]
        lacking = sum(name is None for name in names)
        how = f" ({plural(lacking, 'class has', 'classes have')} no images)" if lacking else ""
        how = f" (their order is another one): {_first(moved)}" if moved else how
        lines.append(f"labels are mapped to the teacher's classes by name{how}")
    known = [classes for classes in (data.label_names, data.readable_names) if len(classes) == len(names)]
    others = min((differing(names, classes) for classes in known), key=len, default=[])
    if others and not all(name is None or name.isdecimal() for name in names):
        same = [f"{plain(name)} = {plain(other)}" for name, other in others]
        lines.append(f"names that are taken for the same class: {_first(same)}")
    return lines


def _label_in_words(name: str, label: int) -> str:
    return f"'{name}' (label {label})" if name.isdecimal() else f"{plain(name)} {label}"


def _first(words: Sequence[str]) -> str:
    more = f", and {len(words) - SHOWN_NAMES:,} more" if len(words) > SHOWN_NAMES else ""
    return ", ".join(words[:SHOWN_NAMES]) + more


def decoded_in_order(
    encoded: Encoded, channels: int, side: int, fit: Literal["crop", "pad"], check_stop: Callable[[], None]
) -> Iterator[tuple[Chunk, Decoded]]:
    """Yield the chunks in order, decoded by a few threads that are at most a few chunks ahead.

    Args:
        check_stop: called at least twice a second, whatever a chunk of large photos takes; its error ends the threads.
    """
    threads = REQUESTS if encoded.is_remote else min(MAX_THREADS, len(os.sched_getaffinity(0)))
    waiting: deque[tuple[Chunk, Future[Decoded]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    given_up = Event()

    def first() -> tuple[Chunk, Decoded]:
        chunk, decoding = waiting.popleft()
        while not wait([decoding], timeout=POLL_SECONDS).done:
            check_stop()
        return chunk, decoding.result()

    try:
        for chunk in encoded.chunks():
            waiting.append((chunk, pool.submit(decode, chunk.sources, channels, side, fit, given_up.is_set)))
            if len(waiting) > 2 * threads:
                yield first()
        while waiting:
            yield first()
    finally:
        given_up.set()
        pool.shutdown(cancel_futures=True)


def _write_list(broken: list[dict[str, str]], folder: Path | None, role: str) -> Path | None:
    """Write all broken images with their reasons into a folder, or delete the list of an earlier import.

    Returns:
        The list; None where nothing is broken, there is no folder, or it cannot be written to.
    """
    if folder is None:
        return None
    path = folder / f"broken-{role}.txt"
    with contextlib.suppress(OSError):  # the import does not depend on it
        if not broken:
            path.unlink(missing_ok=True)
            return None
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{plain(image['path'])}: {image['reason']}\n" for image in broken), encoding="utf-8")
        return path
    return None


def _broken_in_words(broken: list[dict[str, str]], path: Path | None) -> list[str]:
    """Return indented lines that name the first broken images and the list of all."""
    lines = [f"  {plain(image['path'])}: {image['reason']}" for image in broken[:SHOWN_BROKEN]]
    if len(broken) > SHOWN_BROKEN:
        lines.append(f"  and {len(broken) - SHOWN_BROKEN:,} more")
    return lines if path is None else [*lines, f"  all of them: {path}"]


def _check_broken(
    lines: list[str], num_broken: int, total: int, data: DataConfig, where: str, material: Material
) -> None:
    """Refuse a material with more broken images than the trial allows, or with no other ones."""
    if num_broken > data.max_broken_fraction * total or num_broken == total:
        share = f"trial.data.max_broken_fraction {data.max_broken_fraction:g}"
        end = f"{num_broken:,} of {total:,} is more than {share} allows. Repair or delete them, or raise it"
        if num_broken == total:
            end = "none of them is left. Repair them, or correct the path"
        start = f"{where}: {part_of(num_broken, total, 'image')} of {material.path} cannot be read:"
        raise InputError("\n".join([start, *lines, end]))
