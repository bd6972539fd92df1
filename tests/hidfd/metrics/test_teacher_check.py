"""The check of a teacher: what is an error, what is a warning, and what is neither."""

from dataclasses import replace

import pytest

from hidfd.metrics.teacher_check import TeacherCheck, best_order

SOUND = TeacherCheck(
    num_labelled=1000,
    accuracy=0.9,
    largest_class_share=0.1,
    num_candidates=500,
    mean_confidence=0.8,
    class_shares=[0.5, 0.3, 0.2],
    num_not_finite=0,
)
WITHOUT_LABELS = replace(SOUND, num_labelled=0, accuracy=None, largest_class_share=None)
ONE_CLASS = [0.0, 0.96, 0.04]


def test_sound_teacher_needs_no_word() -> None:
    for check in (SOUND, WITHOUT_LABELS):
        assert check.error is None
        assert check.warnings == []


@pytest.mark.parametrize(
    ("num_labelled", "accuracy", "share", "is_error"),
    [
        (1000, 0.1, 0.1, True),
        (1000, 0.118, 0.1, True),  # 0.1 + 2 sqrt(0.1 * 0.9 / 1000) = 0.119
        (1000, 0.120, 0.1, False),
        (100, 0.15, 0.1, True),
        (100, 0.17, 0.1, False),
        (1000, 0.6, 0.7, True),
        (1000, 0.02, 0.5, True),
        (50_000, 0.0023, 0.001, False),
    ],
)
def test_accuracy_must_be_above_the_largest_class_by_two_standard_errors(
    num_labelled: int, accuracy: float, share: float, is_error: bool
) -> None:
    check = replace(SOUND, num_labelled=num_labelled, accuracy=accuracy, largest_class_share=share)
    assert (check.error is not None) == is_error


def test_few_labels_that_look_like_guessing_are_a_warning() -> None:
    check = replace(SOUND, num_labelled=99, accuracy=0.1)
    assert check.error is None
    assert ["accuracy" in text for text in check.warnings] == [True]


@pytest.mark.parametrize(("num_candidates", "is_error"), [(99, False), (100, True)])
def test_one_class_for_nearly_all_candidates_is_an_error_without_labels_from_100_on(
    num_candidates: int, is_error: bool
) -> None:
    check = replace(WITHOUT_LABELS, class_shares=ONE_CLASS, num_candidates=num_candidates)
    assert (check.error is not None) == is_error
    assert bool(check.warnings) != is_error


def test_unbalanced_pool_is_only_a_warning_where_labels_show_that_the_teacher_is_right() -> None:
    check = replace(SOUND, class_shares=ONE_CLASS)
    assert check.error is None
    assert "96.0 %" in check.warnings[0]


def test_share_of_exactly_95_percent_is_no_error() -> None:
    assert replace(WITHOUT_LABELS, class_shares=[0.05, 0.95]).error is None


def test_labels_of_one_class_decide_nothing() -> None:
    check = replace(SOUND, accuracy=1.0, largest_class_share=1.0)
    assert check.error is None
    assert replace(check, class_shares=ONE_CLASS).error is not None


def test_answers_that_are_not_finite_are_an_error_whatever_else() -> None:
    assert "3 images" in str(replace(SOUND, num_not_finite=3).error)


def test_numbers_are_said_with_the_names_of_the_classes() -> None:
    words = replace(SOUND, class_shares=[0.2, 0.8, 0.0]).in_words(("cat", "dog", "emu"))
    for text in ("90.0 % accuracy on 1,000", "largest class: 10.0 %", "dog 80.0 %, cat 20.0 %", "1 of 3 classes never"):
        assert text in words
    assert "no labelled validation images" in WITHOUT_LABELS.in_words(())


TEN_CLASSES = replace(WITHOUT_LABELS, num_candidates=400, class_shares=[0.1] * 10)


@pytest.mark.parametrize(
    ("class_shares", "said"),
    [
        ([0.80, 0.17, 0.02, 0.01, 0, 0, 0, 0, 0, 0], "80.0 % of 400 candidates one class, 0"),
        ([0.44, 0.31, 0.16, 0.05, 0.02, 0.02, 0, 0, 0, 0], "none of 400 candidates one of 4 of its 10 classes"),
        ([0.40, 0.20, 0.10, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0], ""),
        ([0.7, 0.3], ""),  # two classes are often so
    ],
)
def test_teacher_without_labels_that_uses_few_of_its_classes_is_doubted(class_shares: list[float], said: str) -> None:
    check = replace(TEN_CLASSES, class_shares=class_shares)
    assert check.error is None
    assert said in " ".join(check.warnings)
    assert bool(check.warnings) == bool(said)


@pytest.mark.parametrize(
    ("num_labelled", "accuracy", "is_doubted"),
    [(300, 0.23, True), (60, 0.30, True), (300, 0.55, False), (0, None, False)],
)
def test_teacher_that_is_sure_and_mostly_wrong_is_doubted(
    num_labelled: int, accuracy: float | None, is_doubted: bool
) -> None:
    check = replace(SOUND, num_labelled=num_labelled, accuracy=accuracy, mean_confidence=0.8)
    assert check.error is None
    assert any("far below its mean confidence" in text for text in check.warnings) == is_doubted


def test_labels_in_another_order_are_said_with_that_order() -> None:
    partly = replace(SOUND, accuracy=0.6, largest_class_share=0.34, best_order=[0, 2, 1], best_order_accuracy=0.92)
    wrong = replace(partly, accuracy=0.34)
    assert partly.error is None, "all but guessing is a warning"
    for said, accuracy in ((partly.warnings[-1], "60.0 %"), (str(wrong.error), "34.0 %")):
        for text in (accuracy, "92.0 %", "1 -> 2, 2 -> 1", "trial.data.class_names"):
            assert text in said
    assert partly.causes == "", "the order is the cause"
    assert replace(partly, num_labelled=29).warnings == [], "so few labels show no order"
    assert replace(partly, best_order_accuracy=0.7).warnings == [], "a weak teacher"


def test_best_order_is_a_permutation_and_keeps_labels_without_images() -> None:
    assert best_order([[1, 9, 0], [8, 0, 0], [0, 0, 0]]) == (1, 0, 2)
    assert best_order([[5, 0], [9, 0]]) == (1, 0), "a class that two labels want goes to the one with more images"
