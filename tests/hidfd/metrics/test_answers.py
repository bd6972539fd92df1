"""Answers to single images, and the error that these images leave in the difference of two students."""

import json
import math
import random
import statistics

import pytest

from hidfd.metrics.answers import Answers, paired_error


def answers(*groups: str, images: str = "a") -> Answers:
    return Answers.of(images, [[mark == "+" for mark in group] for group in groups])


@pytest.mark.parametrize("sizes", [(0,), (1,), (7,), (8,), (9, 3), (5, 2, 16)])
def test_answers_survive_the_ledger(sizes: tuple[int, ...]) -> None:
    draws = random.Random(sum(sizes))
    groups = [[draws.random() < 0.5 for _ in range(size)] for size in sizes]
    kept = Answers.from_json(json.loads(json.dumps(Answers.of("a", groups).to_json())))
    assert [[bool(bit) for bit in group] for group in kept.groups()] == groups


def test_two_thousand_images_take_some_three_hundred_characters() -> None:
    assert len(answers("+-" * 1000).hits) == 336


def test_error_of_one_seed_by_hand() -> None:
    error = paired_error([(answers("+++-"), answers("+-++"))])  # d = 0, 1, 0, -1: a variance of 2/3 over 4 images
    assert error == pytest.approx(math.sqrt(2 / 3 / 4))


def test_error_of_two_seeds_by_hand() -> None:
    first, second = (answers("+++-"), answers("+-++")), (answers("++--"), answers("+---"))
    # d = 0, 1, 0, -1/2: a mean of 1/8, squares of 1.1875 around it
    assert paired_error([first, second]) == pytest.approx(math.sqrt(1.1875 / 3 / 4))


def test_error_of_a_mean_over_classes_by_hand() -> None:
    pair = answers("+-", "++--"), answers("--", "+-+-")  # d = (1, 0) and (0, 1, -1, 0): variances of 1/2 and 2/3
    assert paired_error([pair]) == pytest.approx(math.sqrt(0.5 / 2 + 2 / 3 / 4) / 2)


def test_it_matters_which_images_are_wrong_and_not_only_how_many() -> None:
    mistakes = answers("----++++++++")
    assert paired_error([(mistakes, answers("----++++++++"))]) == 0.0
    together = paired_error([(mistakes, answers("---+++++++++"))])
    apart = paired_error([(mistakes, answers("++++++++++---"[:12]))])
    assert together is not None
    assert apart is not None
    assert together < apart


@pytest.mark.parametrize(
    "pairs",
    [
        [(answers("+-+"), answers("+-+", images="b"))],
        [(answers("+-+"), answers("+-", "+"))],
        [(answers("+-+"), answers("++-")), (answers("+-+", images="b"), answers("++-", images="b"))],
        [(answers("+"), answers("-"))],
        [],
    ],
    ids=["other images", "other classes", "other images on another seed", "one image", "no seed"],
)
def test_answers_that_cannot_be_paired_have_no_error(pairs: list[tuple[Answers, Answers]]) -> None:
    assert paired_error(pairs) is None


def test_it_is_the_error_that_differences_have_over_sets_of_images() -> None:
    draws = random.Random(3)

    def measured() -> tuple[float, float]:
        """Two students on 200 fresh images, of which three in four are easy for both."""
        difficulty = [draws.random() for _ in range(200)]
        first, second = (
            [draws.random() < (0.95 if hard < 0.75 else share) for hard in difficulty] for share in (0.4, 0.3)
        )
        error = paired_error([(Answers.of("a", [first]), Answers.of("a", [second]))])
        assert error is not None
        return (sum(first) - sum(second)) / 200, error

    differences, errors = zip(*(measured() for _ in range(1000)), strict=True)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(differences), rel=0.07)
