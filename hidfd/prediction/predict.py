"""Name the classes of a user's images, which are read, decoded and classified a chunk at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from hidfd.data.decoding import Decoded, silent_pillow
from hidfd.data.readers import Chunk, Encoded
from hidfd.errors import InputError, Stopped
from hidfd.formatting import duration, part_of, percent, plain, plural
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.prediction.classifiers import Classifier
from hidfd.prediction.tables import Prediction, PredictionTable
from hidfd.stages.imports.images import LISTED_BROKEN, decoded_in_order

_PROGRESS = Stage("prediction", "predict", "prediction", {}, {})
"""The prediction as observers are told of it; it is no artifact."""


@dataclass(frozen=True)
class PredictionSummary:
    """The end of a prediction.

    Attributes:
        num_images, num_broken: images that were classified, and that cannot be read.
        broken: the first of these, each with `path` and `reason`.
        agreement: share of the classified images that get the teacher's class; None where there is no teacher.
        seconds: that it took.
    """

    num_images: int
    num_broken: int
    broken: tuple[dict[str, str], ...]
    agreement: float | None
    seconds: float

    def in_words(self) -> str:
        """Return one line."""
        words = f"classified {plural(self.num_images, 'image')} in {duration(self.seconds)}"
        if self.num_broken:
            words += f"; {part_of(self.num_broken, self.num_images + self.num_broken, 'image')} cannot be read"
        if self.agreement is not None:
            words += f"; the teacher names the same class for {percent(self.agreement)}"
        return words

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, as `--json` prints it."""
        return {
            "images": self.num_images,
            "num_broken": self.num_broken,
            "broken": list(self.broken),
            "agreement_with_teacher": self.agreement,
            "seconds": round(self.seconds, 3),
        }


def predict(classifier: Classifier, images: Encoded, table: PredictionTable, observer: Observer) -> PredictionSummary:
    """Classify images, and write a row for each into a table, in their order.

    Args:
        images: as `encoded_images` returns them.
        table: complete at the end.
        observer: is told of the progress and of each image that cannot be read, and may stop it.

    Raises:
        InputError: not one of the images can be read.
        Stopped: the observer asked for it.
    """
    started, settings = time.monotonic(), classifier.preprocessing
    num_images = num_agreed = num_broken = 0
    broken: list[dict[str, str]] = []

    def check_stop() -> None:
        reason = observer.should_stop()
        if reason is not None:
            raise Stopped(f"predict: stopped ({reason}) at {num_images:,} of {images.total:,} images; it begins anew")

    observer.stage_started(_PROGRESS, images.total)
    size = (settings.channels, settings.image_size_pixels, settings.fit)
    with silent_pillow():
        for chunk, decoded in decoded_in_order(images, *size, check_stop):
            for index, reason in decoded.broken.items():
                num_broken += 1
                observer.note(f"skipped {plain(chunk.names[index])}: {reason}")
                if len(broken) < LISTED_BROKEN:
                    broken.append({"path": chunk.names[index], "reason": reason})
            rows = _rows(classifier, chunk, decoded)
            if rows:
                table.write(rows)
            num_images += len(rows)
            num_agreed += sum(row.agrees is True for row in rows)
            observer.advanced(_PROGRESS, num_images + num_broken, images.total, {})
            check_stop()
    if not num_images:
        first = f"; the first, {plain(broken[0]['path'])}, {broken[0]['reason']}" if broken else ""
        raise InputError(f"IMAGES: {part_of(0, num_broken, 'image')} can be read{first}; nothing was written")
    table.finish()
    agreement = num_agreed / num_images if classifier.has_teacher else None
    return PredictionSummary(num_images, num_broken, tuple(broken), agreement, time.monotonic() - started)


def _rows(classifier: Classifier, chunk: Chunk, decoded: Decoded) -> list[Prediction]:
    """Return the answers to the images of a chunk that can be read."""
    names = [name for index, name in enumerate(chunk.names) if index not in decoded.broken]
    if not names:
        return []
    answers, labels = classifier.answer(decoded.pixels), classifier.labels
    rows = []
    for index, name in enumerate(names):
        number, teacher = int(answers.classes[index]), answers.teacher_classes
        label, agrees = (None, None) if teacher is None else (labels[teacher[index]], bool(teacher[index] == number))
        rows.append(Prediction(name, labels[number], number, float(answers.confidences[index]), label, agrees))
    return rows
