"""Images are classified in their order as the student answers them; broken ones are left out and named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hidfd.config.schema import TrialConfig
from hidfd.data.decoding import decode
from hidfd.data.readers import Columns
from hidfd.errors import InputError, Stopped
from hidfd.export.bundle import export_student
from hidfd.export.card import StudentOrigin
from hidfd.export.network import deployed_student
from hidfd.export.preprocessing import Preprocessing
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.prediction.classifiers import ClassAnswers, Classifier, bundle_classifier, trial_classifier
from hidfd.prediction.images import encoded_images
from hidfd.prediction.predict import PredictionSummary, predict
from hidfd.prediction.tables import Prediction, PredictionTable
from hidfd.store.store import Store
from hidfd.trial import run_trial
from tests.hidfd.prediction.test_images import photo


class Rows(PredictionTable):
    """A table in memory."""

    def __init__(self) -> None:
        self.rows: list[Prediction] = []
        self.is_finished = False

    def write(self, rows: list[Prediction]) -> None:  # type: ignore[override]
        self.rows += rows

    def finish(self) -> None:
        self.is_finished = True


class Told(Observer):
    """An observer that remembers, and stops after some images."""

    def __init__(self, stops_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.images: list[int] = []
        self._stops_at = stops_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        self.images.append(images)
        if self._stops_at is not None and images >= self._stops_at:
            self.stop_reason = "Ctrl-C"


def by_shade(pixels: NDArray[np.uint8]) -> ClassAnswers:
    """Dark images are of class 0, bright ones of class 1; the teacher takes all for bright ones."""
    bright = (pixels.mean(axis=(1, 2, 3)) > 127).astype(np.int64)
    return ClassAnswers(bright, np.full(len(bright), 0.75, np.float32), np.ones_like(bright))


SHADES = Classifier(("dark", "bright"), Preprocessing(1, 4, "crop"), True, by_shade)


def predicted(
    *places: Path, classifier: Classifier = SHADES, observer: Observer | None = None
) -> tuple[Rows, PredictionSummary]:
    table = Rows()
    settings = classifier.preprocessing
    size = settings.channels * settings.image_size_pixels**2
    images = encoded_images([str(place) for place in places], size, Columns())
    return table, predict(classifier, images, table, observer or Observer())


def test_each_image_has_a_row_in_order_with_the_answers_of_both(tmp_path: Path) -> None:
    dark, bright = photo(tmp_path / "b.png", 10), photo(tmp_path / "a.png", 250)
    table, summary = predicted(dark, bright)
    assert table.rows == [
        Prediction(str(dark), "dark", 0, 0.75, "bright", False),
        Prediction(str(bright), "bright", 1, 0.75, "bright", True),
    ]
    assert table.is_finished
    assert (summary.num_images, summary.num_broken, summary.agreement) == (2, 0, 0.5)
    assert "the teacher names the same class for 50.0 %" in summary.in_words()


def test_broken_images_are_named_and_the_others_keep_their_paths(tmp_path: Path) -> None:
    photo(tmp_path / "1.png", 10)
    (tmp_path / "2.png").write_bytes(b"not a picture")
    photo(tmp_path / "3.png", 250)
    observer = Told()
    table, summary = predicted(tmp_path, observer=observer)
    assert [(Path(row.path).name, row.label) for row in table.rows] == [("1.png", "dark"), ("3.png", "bright")]
    assert observer.notes == [f"skipped {tmp_path}/2.png: is no image that is known"]
    assert summary.to_json()["broken"] == [{"path": f"{tmp_path}/2.png", "reason": "is no image that is known"}]
    assert "1 of 3 images cannot be read" in summary.in_words()
    assert observer.images[-1] == 3


def test_images_that_are_all_broken_are_an_error_and_no_table(tmp_path: Path) -> None:
    (tmp_path / "2.png").write_bytes(b"")
    table = Rows()
    with pytest.raises(InputError, match="0 of 1 image can be read; the first, .*2.png, is empty; nothing was written"):
        predict(SHADES, encoded_images([str(tmp_path)], 16, Columns()), table, Observer())
    assert not table.is_finished


def test_prediction_is_stopped_between_two_chunks(tmp_path: Path) -> None:
    for number in range(600):
        photo(tmp_path / f"{number}.png")
    table = Rows()
    with pytest.raises(Stopped, match=r"stopped \(Ctrl-C\) at 256 of 600 images"):
        predict(SHADES, encoded_images([str(tmp_path)], 16, Columns()), table, Told(stops_at=1))
    assert not table.is_finished


def test_student_in_a_store_and_exported_answers_as_the_deployed_network(
    trial_config: TrialConfig, store: Store, world: Path, tmp_path: Path
) -> None:
    result = run_trial(trial_config, store, device="cpu")
    in_store, _ = predicted(world / "validation", classifier=trial_classifier(result.config, store, "cpu"))
    origin = StudentOrigin("mine", "trial-1", "command", result.metrics)
    for format_ in ("torch", "safetensors"):
        export_student(result.config, store, origin, format_=format_, folder=tmp_path / format_)  # type: ignore[arg-type]
        in_bundle, summary = predicted(world / "validation", classifier=bundle_classifier(tmp_path / format_))
        assert summary.agreement is None
        for row, other in zip(in_store.rows, in_bundle.rows, strict=True):
            assert (row.path, row.label, row.class_index) == (other.path, other.label, other.class_index)
            assert row.confidence == pytest.approx(other.confidence, abs=1e-5)
            assert (other.teacher_label, other.agrees) == (None, None)
    paths = [Path(row.path) for row in in_store.rows]
    pixels = torch.from_numpy(decode(paths, 1, 28, "crop").pixels)
    shares = deployed_student(result.config, store)(pixels / 255).softmax(dim=1)
    assert [row.class_index for row in in_store.rows] == shares.argmax(dim=1).tolist()
    assert [row.confidence for row in in_store.rows] == pytest.approx(shares.max(dim=1).values.tolist(), abs=1e-5)
    assert {row.label for row in in_store.rows} <= {"class0", "class1", "class2"}
