"""Numbers, durations and sizes as people read them."""

from pathlib import Path
from typing import Any

import pytest

from hidfd import formatting


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (8.4, "8.4 s"),
        (52, "52 s"),
        (59.7, "1 min 00 s"),
        (425, "7 min 05 s"),
        (12_000, "3 h 20 min"),
        (1_036_800, "12 days"),
        (138_000_000, "4.4 years"),
    ],
)
def test_duration_is_written_in_two_units_at_most(seconds: float, words: str) -> None:
    assert formatting.duration(seconds) == words


def test_range_of_a_duration_has_the_expected_one_first() -> None:
    assert formatting.duration_range(425, 52, 12_000) == "7 min 05 s (52 s to 3 h 20 min)"


def test_marks_on_a_time_axis_are_exact() -> None:
    assert [formatting.clock_tick(n) for n in (0, 30, 90, 300, 5400, 7200)] == [
        *("0 s", "30 s", "90 s", "5 min", "90 min", "2 h")
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (0, "0"),
        (7, "7"),
        (91_322.0, "91,322"),
        (0.5, "0.5"),
        (0.123456, "0.1235"),
        (12_345.6, "1.235e+04"),
    ],
)
def test_numbers_are_whole_or_have_four_digits(value: float | None, words: str) -> None:
    assert formatting.number(value) == words


def test_grouped_numbers_are_rounded() -> None:
    assert [formatting.grouped(value) for value in (3.4, 999.5, 1_234_567)] == ["3", "1,000", "1,234,567"]


def test_counts_on_an_axis_are_short() -> None:
    assert [formatting.short_count(n) for n in (0, 500, 32_000, 2_400_000)] == ["0", "500", "32k", "2.4M"]


def test_nouns_follow_their_count() -> None:
    assert [formatting.plural(n, "student") for n in (0, 1, 2)] == ["0 students", "1 student", "2 students"]


def test_numbers_are_listed_after_their_noun() -> None:
    assert (formatting.listed("trial", [7]), formatting.listed("trial", [1, 2])) == ("trial 7", "trials 1, 2")


def test_ordinals_end_as_they_are_read() -> None:
    assert [formatting.ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 103, 111)] == [
        *("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "103rd", "111th")
    ]


def test_shares_are_written_in_per_cent_and_their_errors_in_points() -> None:
    assert formatting.percent(0.8744) == "87.4 %"
    assert formatting.percent(0.5, 0) == "50 %"
    assert formatting.percent(None) == "–"
    assert formatting.points(0.0091) == "0.9"
    assert formatting.points(None) is None
    assert formatting.percent_with_error(0.874, 0.009) == "87.4 ± 0.9 %"
    assert formatting.percent_with_error(0.874, None) == "87.4 %"
    assert formatting.percent_with_error(None, 0.1) == "–"


@pytest.mark.parametrize(
    ("value", "sentence", "column"),
    [
        (None, "none", ""),
        (True, "on", "True"),
        (False, "off", "False"),
        (7, "7", "7"),
        (64_000, "64,000", "64000"),
        (12_000.0, "12,000", "12,000"),
        (0.000251234, "0.0002512", "0.000251"),
        ("light", "light", "light"),
    ],
)
def test_settings_are_written_for_a_sentence_and_for_a_column(value: Any, sentence: str, column: str) -> None:
    assert formatting.setting(value) == sentence
    assert formatting.short_setting(value) == column


def test_progress_is_written_as_far_as_it_is_known() -> None:
    assert formatting.progress(3200) == "3,200 images"
    assert formatting.progress(3200, 24_000) == "3,200 of 24,000 images"
    assert formatting.progress(3200, 24_000, 310.2, 67.0) == "3,200 of 24,000 images  310 images/s  1 min 07 s left"
    assert formatting.progress(3200, 24_000, None, 67.0) == "3,200 of 24,000 images"


def test_used_budget_is_written_with_its_limit_and_unit() -> None:
    assert formatting.used_of(1.2546, 8.0, "CPU-hours") == "1.25 of 8 CPU-hours"
    assert formatting.used_of(3, 20, "EUR", digits=4) == "3 of 20 EUR"


def test_memory_has_binary_units() -> None:
    sizes = (0, 300_000, 2**20 * 310, 2**30 * 2, 2**50)
    assert [formatting.memory_size(n) for n in sizes] == ["0.0 MiB", "0.3 MiB", "310 MiB", "2.00 GiB", "1048576.00 GiB"]


def test_sizes_have_decimal_units() -> None:
    assert [formatting.size(n) for n in (0, 310_400, 12_420_000, 1.5e9)] == ["0 kB", "310 kB", "12.4 MB", "1.5 GB"]


def test_metrics_are_written_without_their_stage_and_with_their_errors() -> None:
    metrics = {
        "distillation/images": 640.0,
        "distillation/total": 1.23456,
        "agreement": 0.87654,
        "agreement_standard_error": 0.0091,
        "kl_to_teacher": 0.4,
    }
    assert formatting.metrics_in_words(metrics) == "total 1.235, agreement 0.8765 ± 0.0091, kl_to_teacher 0.4"
    assert formatting.metrics_in_words(metrics, at_most=1) == "total 1.235"


def test_paths_below_the_working_directory_become_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert formatting.relative_paths(f"see {tmp_path}/a/b.txt and /c") == "see a/b.txt and /c"


def test_counts_agree_with_their_nouns_and_verbs() -> None:
    assert formatting.plural(1, "student is", "students are") == "1 student is"
    assert formatting.plural(2, "entry", "entries") == "2 entries"
    assert formatting.plural(1.0, "CPU") == "1 CPU"
    assert formatting.plural(0.5, "GPU") == "0.5 GPUs"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("resent18", "did you mean resnet18?"),
        ("resnet50", "known: resnet18, wrn-40-2"),  # another network, not a mistyped resnet56
        ("wrn40-2", "did you mean wrn-40-2?"),
        ("vit", "known: resnet18, wrn-40-2"),
    ],
)
def test_hint_names_what_was_mistyped_or_else_all_that_exists(word: str, hint: str) -> None:
    assert formatting.meant_or_known(word, ["resnet18", "wrn-40-2"]) == hint


def test_part_of_a_number_of_things_agrees_with_the_whole() -> None:
    assert formatting.part_of(1, 1, "other") == "1 of 1 other"
    assert formatting.part_of(0, 1, "task has", "tasks have") == "0 of 1 task has"
    assert formatting.part_of(1, 2, "task has", "tasks have") == "1 of 2 tasks have"
    assert formatting.part_of(1200, 24_000, "image") == "1,200 of 24,000 images"
    assert formatting.plural(24_000, "image") == "24,000 images"
