"""The card says what a student is, whose pupil, with numbers, their n and spread, and what they do not say."""

import re
from dataclasses import replace
from typing import Any

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.export.card import CardFacts, StudentOrigin, card
from hidfd.export.comparison import LogitComparison
from hidfd.export.formats import Format
from hidfd.export.preprocessing import Preprocessing

CONFIG = TrialConfig.model_validate(
    {
        "data": {"num_classes": 3, "candidates": {"sha256": "a" * 64}, "image_size_pixels": 32},
        "teacher": {
            "architecture": "resnet32x4",
            "checkpoint": {"sha256": "c" * 64},
            "mean": [0.5] * 3,
            "std": [0.2] * 3,
        },
        "distillation": {"architecture": "resnet8"},
    }
)
METRICS: dict[str, Any] = {
    "agreement": 0.84,
    "agreement_standard_error": 0.012,
    "validation_accuracy": 0.805,
    "teacher_validation_accuracy": 0.92,
    "validation_calibration_error": 0.031,
    "deployed_parameters": 78_042,
    "teacher_parameters": 7_433_860,
}
ALONE = StudentOrigin("mine", "trial-1", "python -m hidfd run mine.yaml", METRICS)


def text_of(origin: StudentOrigin, config: TrialConfig = CONFIG, format_: Format = "onnx") -> str:
    compared = LogitComparison(256, "hold-out", 2e-6, 1.2e-2, 0)
    return card(config, origin, CardFacts(format_, compared, Preprocessing(3, 32, "crop"), "d" * 64, {"torch": "2.15"}))


def test_card_of_one_student_has_its_numbers_with_n_1_and_no_spread() -> None:
    text = text_of(ALONE)
    assert text.startswith("# mine: trial-1\n")
    assert "`resnet8`" in text
    assert "78,042 (student), 7,433,860 (teacher)" in text
    assert "| agreement with the teacher | – | 1 | 84.0 ± 1.2 % (standard error over the images) |" in text
    assert "| validation accuracy | – | 1 | 80.5 % |" in text
    assert "The teacher (`resnet32x4`) is right on 92.0 % of the validation images itself." in text
    assert "One seed:" in text
    assert "between confidence and accuracy is 3.1 %" in text


def test_card_over_several_seeds_has_mean_deviation_and_n() -> None:
    origin = replace(ALONE, means={"agreement": 0.838}, deviations={"agreement": 0.005}, num_seeds=3)
    text = text_of(replace(origin, remarks=("**hybrid beat real-only**",)))
    assert "| agreement with the teacher | 83.8 ± 0.5 % | 3 | 84.0 ± 1.2 % (standard error over the images) |" in text
    assert "**hybrid beat real-only**" in text
    assert "One seed:" not in text


def test_card_without_labels_says_that_accuracy_is_not_known() -> None:
    text = text_of(replace(ALONE, metrics={"agreement": 0.84}))
    assert "its own accuracy is not known" in text
    assert "How often it is right has not been measured" in text
    assert "between confidence and accuracy was not measured" in text


def test_card_says_whether_the_photos_are_of_the_teachers_data_set() -> None:
    assert "which is not said to be of the teacher's own data set" in text_of(ALONE)
    config = with_values(CONFIG, {"data.candidates_in_domain": True})
    assert "which holds other images of the teacher's own data set" in text_of(ALONE, config)


def test_card_names_what_it_needs_and_where_it_comes_from() -> None:
    text = text_of(ALONE)
    assert "pip install onnxruntime pillow numpy" in text
    assert "NaN" in text
    assert "`python -m hidfd run mine.yaml`" in text
    assert "`trial.teacher.checkpoint`: sha256 `" + "c" * 64 in text
    assert "256 hold-out images by onnxruntime against torch" in text
    assert "pip install torch pillow\n" in text_of(ALONE, format_="torch")
    weights = text_of(ALONE, format_="safetensors")
    assert "pip install" not in weights
    assert "classify.py" not in weights


def test_card_does_not_claim_a_licence() -> None:
    section = re.search(r"## Licence\n\n(.*?)\n\n##", text_of(ALONE), re.DOTALL)
    assert section is not None
    assert "was not stated" in section[1]
