"""The verdict: differences between rows, their errors over seeds and over images, and the words for them."""

import math
import random
import statistics
from dataclasses import replace

import pytest
from scipy import stats

from hidfd.metrics.answers import Answers
from tune.study.snapshot import GainSnapshot, RowSnapshot
from tune.study.states import Role
from tune.study.verdict import best_row, gains_of, parts_of, residual_variance, verdict_in_words


def row(
    name: str, role: Role, *values: float | None, metric: str = "validation_accuracy", **means: float
) -> RowSnapshot:
    """A row with these numbers on its seeds; None for a student that has none."""
    known = [value for value in values if value is not None]
    metrics = {metric} if metric == "agreement" else {metric, "agreement"}
    return RowSnapshot(
        name=name,
        role=role,
        params={},
        keys=tuple(f"{name}-{seed}" for seed in range(len(values))),
        num_complete=len(known),
        means={found: statistics.fmean(known) for found in metrics if known} | means,
        deviations={found: statistics.stdev(known) for found in metrics if len(known) > 1},
        values=dict.fromkeys(metrics, values),
    )


HYBRID = row("hybrid", "finalist", 0.80, 0.84, 0.82)
REAL_ONLY = row("real-only", "control", 0.70, 0.72, 0.74)
PLAIN_KD = row("plain-kd", "control", 0.81, 0.81, 0.84)
"""Three rows whose residuals have 8e-4 as their sum of squares: a variance of 2e-4 with 4 degrees of freedom."""


def verdict(*rows: RowSnapshot, has_ended: bool = False) -> str | None:
    return verdict_in_words(gains_of(rows, "agreement", has_ended=has_ended), rows)


def only(*rows: RowSnapshot, has_ended: bool = False) -> GainSnapshot:
    (gain,) = gains_of(rows, "agreement", has_ended=has_ended)
    return gain


def test_interval_over_seeds_by_hand() -> None:
    numbers = [(0.80, 0.84, 0.82), (0.70, 0.72, 0.74), (0.81, 0.81, 0.84)]
    assert residual_variance(numbers) == (pytest.approx(2e-4), 4)
    gain, _ = gains_of([HYBRID, REAL_ONLY, PLAIN_KD], "agreement")
    half_width = 2.7764 * math.sqrt(2 * 2e-4 / 3)  # t of 4 degrees of freedom from a table
    assert (gain.low, gain.high) == (
        pytest.approx(0.1 - half_width, abs=1e-5),
        pytest.approx(0.1 + half_width, abs=1e-5),
    )
    assert verdict(HYBRID, REAL_ONLY, PLAIN_KD) == (
        "hybrid +10.0 over real-only [6.8, 13.2], not separable from plain-kd: +0.0 [-3.2, 3.2] "
        "(n = 3): validation accuracy 82.0 % against 72.0, 82.0; "
        "in brackets: 95 % over seeds, paired, 4 degrees of freedom"
    )


def test_a_champion_that_a_control_beat_is_said_to_have_lost() -> None:
    beaten, better = (
        replace(REAL_ONLY, name="hybrid", role="finalist"),
        replace(HYBRID, name="real-only", role="control"),
    )
    assert (verdict(beaten, better, PLAIN_KD) or "").startswith(
        "hybrid lost to real-only by 10.0 [6.8, 13.2], lost to plain-kd by 10.0 [6.8, 13.2] (n = 3)"
    )


def test_two_rows_are_compared_as_by_a_paired_t_test() -> None:
    first, second = (0.71, 0.78, 0.74, 0.80), (0.68, 0.77, 0.70, 0.79)
    gain = only(row("hybrid", "finalist", *first), row("real-only", "control", *second))
    interval = stats.ttest_rel(first, second).confidence_interval()
    assert (gain.low, gain.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert gain.degrees_of_freedom == 3


def test_what_all_rows_share_on_a_seed_hides_no_difference() -> None:
    seeds = (0.50, 0.70, 0.90)
    finalist = row(
        "hybrid", "finalist", *(seed + noise for seed, noise in zip(seeds, (0.03, 0.031, 0.032), strict=True))
    )
    assert only(finalist, row("real-only", "control", *seeds)).standing == "won"


def test_nineteen_of_twenty_intervals_contain_the_true_difference() -> None:
    random.seed(20)
    hits, repeats, true = 0, 3000, 0.02
    for _ in range(repeats):
        seeds = [random.gauss(0.7, 0.05) for _ in range(3)]
        hybrid, *controls = ([seed + random.gauss(0, 0.012) for seed in seeds] for _ in range(4))
        rows = [row("hybrid", "finalist", *(value + true for value in hybrid))]
        rows += [row(f"control-{number}", "control", *values) for number, values in enumerate(controls)]
        gain = gains_of(rows, "agreement")[0]
        assert gain.low is not None
        assert gain.high is not None
        hits += gain.low <= true <= gain.high
    assert hits / repeats == pytest.approx(0.95, abs=0.012)  # three standard errors of 3,000 throws


def test_one_seed_decides_nothing_and_the_command_that_says_more_is_named() -> None:
    rows = row("hybrid", "finalist", 0.42), row("real-only", "control", 0.65), row("plain-kd", "control", 0.40)
    assert verdict(*rows) == (
        "not yet decided (n = 1), --seeds 3 says more: hybrid -23.0 over real-only, +2.0 over plain-kd: "
        "validation accuracy 42.0 % against 65.0, 40.0"
    )
    assert {gain.standing for gain in gains_of(rows, "agreement")} == {"open"}


def test_second_finalist_is_held_against_the_first() -> None:
    second = replace(PLAIN_KD, name="trial-7", role="finalist", means=PLAIN_KD.means | {"agreement": 0.81})
    third = replace(REAL_ONLY, name="trial-5", role="finalist")
    first = replace(HYBRID, name="trial-2")
    assert (verdict(third, second, first) or "").startswith(
        "trial-2 not separable from trial-7: +0.0 [-3.2, 3.2] (n = 3)"
    )
    assert verdict(first) is None, "it stands alone"


def test_no_verdict_before_every_seed_has_a_number() -> None:
    late = row("real-only", "control", 0.70, None, 0.74)
    assert verdict(HYBRID, late) is None
    assert verdict(replace(HYBRID, num_complete=2), REAL_ONLY) is None
    assert verdict(REAL_ONLY) is None
    assert verdict(HYBRID, replace(REAL_ONLY, role="variant")) is None


def test_seeds_that_a_control_has_lost_for_good_are_left_out_of_its_pair_and_that_is_said() -> None:
    lost = row("real-only", "control", 0.70, None, 0.74)
    gains = gains_of([HYBRID, lost, PLAIN_KD], "agreement", has_ended=True)
    assert [(gain.other, gain.num_seeds, gain.degrees_of_freedom) for gain in gains] == [
        ("real-only", 2, 2),  # its own two seeds, in all three rows
        ("plain-kd", 3, 2),
    ]
    assert gains[0].value == pytest.approx(0.81), "the finalist's mean over the same two seeds"
    words = verdict(HYBRID, lost, PLAIN_KD, has_ended=True) or ""
    assert "+9.0 over real-only [6.0, 12.0] (only 2 of 3 seeds, 2 df), " in words
    single = verdict(HYBRID, row("real-only", "control", 0.70, None, None), PLAIN_KD, has_ended=True) or ""
    assert "+10.0 over real-only (not yet decided: only 1 of 3 seeds)" in single
    none = verdict(HYBRID, row("real-only", "control", None, None, None), PLAIN_KD, has_ended=True) or ""
    assert none.endswith("no number of real-only to compare with")


def test_students_that_stand_in_two_rows_count_once() -> None:
    rows = [HYBRID, REAL_ONLY]
    twice = [*rows, replace(REAL_ONLY, name="small", role="variant")]
    assert gains_of(twice, "agreement") == gains_of(rows, "agreement")


def test_too_few_validation_images_are_named_beside_the_interval() -> None:
    finalist = row("hybrid", "finalist", 0.80, 0.81, 0.82, validation_images=200)
    near, far = (
        row("real-only", "control", 0.76, 0.77, 0.78, validation_images=200),
        row("plain-kd", "control", 0.5, 0.51, 0.52),
    )
    gain, _ = gains_of([finalist, near, far], "agreement")
    shares = [(200 * share + 1) / 202 for share in (0.81, 0.77)]
    assert gain.image_error == pytest.approx(1.96 * math.sqrt(sum(p * (1 - p) for p in shares) / 200), rel=1e-3)
    assert gain.standing == "won"
    words = verdict(finalist, near, far) or ""
    assert "+4.0 over real-only [3.7, 4.3] (images ± 8.0), +30.0 over plain-kd [29.7, 30.3] (images ± 8.8)" in words
    assert words.endswith(
        "images: the 95 % error that 200 validation images leave by themselves, at most, too few to "
        "tell hybrid from real-only"
    )
    words = verdict(finalist, near, replace(near, name="plain-kd", keys=("a", "b", "c"))) or ""
    assert words.endswith("too few to tell hybrid from any of these")


def answered(found: RowSnapshot, *seeds: str | None, metric: str = "validation_accuracy") -> RowSnapshot:
    """The row with its answers on each seed: `+-+-` for four images; groups are apart by spaces."""
    groups = [[[mark == "+" for mark in group] for group in (seed or "").split()] for seed in seeds]
    return replace(found, answers={metric: tuple(Answers.of("a", kept) if kept else None for kept in groups)})


def test_error_over_images_is_paired_where_answers_are_kept() -> None:
    finalist = answered(row("hybrid", "finalist", 0.75, 0.5, validation_images=4), "+++-", "++--")
    control = answered(row("real-only", "control", 0.75, 0.25), "+-++", "+---")
    gain = only(finalist, control)
    # The mean over seeds of what only one of the two answers right: 0, 1, 0, -1/2; squares of 1.1875 around 1/8.
    assert gain.image_error == pytest.approx(1.96 * math.sqrt(1.1875 / 3 / 4), rel=1e-3)
    assert gain.is_paired
    assert "4 validation images leave by themselves, paired, too few to tell" in (verdict(finalist, control) or "")


def test_error_over_images_of_agreement_is_that_of_a_mean_over_classes() -> None:
    finalist = answered(row("hybrid", "finalist", 0.5, metric="agreement"), "+- ++--", metric="agreement")
    control = answered(row("real-only", "control", 0.25, metric="agreement"), "-- +-+-", metric="agreement")
    gain = only(finalist, control)
    assert gain.image_error == pytest.approx(1.96 * math.sqrt(0.5 / 2 + 2 / 3 / 4) / 2, rel=1e-3)


def test_seed_that_one_row_lacks_is_left_out_of_the_answers_too() -> None:
    finalist = answered(row("hybrid", "finalist", 0.5, 0.75, validation_images=4), "++--", "+++-")
    control = answered(row("real-only", "control", None, 0.75), "----", "+-++")
    gain = only(finalist, control, has_ended=True)
    assert gain.num_seeds == 1
    assert gain.image_error == pytest.approx(1.96 * math.sqrt(2 / 3 / 4), rel=1e-3)


def test_without_all_answers_the_error_over_images_is_an_upper_bound_and_said_to_be_one() -> None:
    finalist = answered(row("hybrid", "finalist", 0.75, 0.5, validation_images=4), "+++-", "++--")
    control = answered(row("real-only", "control", 0.75, 0.25, validation_images=4), "+-++", None)
    other = answered(row("plain-kd", "control", 0.75, 0.25, validation_images=4), "+-++", "+---")
    unanswered, _ = gains_of([finalist, control, other], "agreement")
    assert not unanswered.is_paired
    assert unanswered == only(replace(finalist, answers={}), control, replace(other, role="variant"))
    words = verdict(finalist, control, other) or ""
    assert "leave by themselves, paired (at most, for real-only), too few" in words


def test_the_same_difference_on_two_seeds_is_not_certain_on_few_images() -> None:
    def gain(num_images: int) -> GainSnapshot:
        champion, control = ((5 / 15, 7 / 15), (6 / 15, 8 / 15))
        return only(
            row("hybrid", "finalist", *champion, validation_images=num_images), row("real-only", "control", *control)
        )

    assert gain(15).standing == "undecided"
    assert gain(15_000).standing == "lost"


def test_an_accuracy_of_all_or_nothing_has_an_error_as_well() -> None:
    whole, none = row("hybrid", "finalist", 1.0, validation_images=50), row("real-only", "control", 0.0)
    assert (only(whole, none).image_error or 0.0) > 0.03


def test_without_labels_the_verdict_is_about_the_objective() -> None:
    rows = [
        row("hybrid", "finalist", 0.80, 0.82, metric="agreement", agreement_standard_error=0.03),
        row("real-only", "control", 0.75, 0.77, metric="agreement", agreement_standard_error=0.04),
    ]
    words = verdict(*rows) or ""
    assert words.startswith("hybrid +5.0 over real-only [5.0, 5.0] (images ± 9.8) (n = 2)")
    assert "agreement 81.0 % against 76.0" in words
    assert words.endswith("the hold-out images leave by themselves, at most, too few to tell hybrid from real-only")


def test_verdict_repeats_the_accuracy_of_the_teacher() -> None:
    taught = replace(HYBRID, means=HYBRID.means | {"teacher_validation_accuracy": 0.912})
    assert "validation accuracy 82.0 % against 72.0; the teacher's is 91.2 %" in (verdict(taught, REAL_ONLY) or "")


def test_the_best_row_may_be_a_control_but_none_that_lacks_a_seed_and_no_infeasible_finalist() -> None:
    better = row("real-only", "control", 0.90, 0.91, 0.92)
    assert best_row([HYBRID, better], "agreement") is better
    assert best_row([HYBRID, row("real-only", "control", 0.90, None, 0.92)], "agreement") is HYBRID
    assert best_row([HYBRID, replace(better, role="finalist", feasible=False)], "agreement") is HYBRID
    assert best_row([HYBRID], "agreement") is None, "it is beside nothing"


def test_a_verdict_falls_apart_into_what_was_won_lost_and_left_open() -> None:
    rows = [HYBRID, REAL_ONLY, PLAIN_KD, row("rich", "control", 0.95, 0.97, 0.99)]
    gains, words = gains_of(rows, "agreement"), verdict(*rows) or ""
    parts = list(parts_of(words, gains))
    assert "".join(text for text, _ in parts) == words
    assert [standing for _, standing in parts if standing] == ["won", "undecided", "lost"]
    assert list(parts_of("Under way.", ())) == [("Under way.", None)]
