"""Tables keep their words whole on screens of every width."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from hidfd.text_table import INDENT, TextColumn, TextTable

WIDTHS = (40, 80, 100, 160)


def printed(table: TextTable, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(table, crop=False)
    return stream.getvalue().splitlines()


def words_of(lines: list[str]) -> set[str]:
    return {word.strip(",") for line in lines for word in line.split()}


@pytest.fixture
def table() -> TextTable:
    columns = [TextColumn("trial"), TextColumn("generator_learning_rate", 2, is_right=True)]
    columns += [TextColumn("validation accuracy", 1, is_right=True), TextColumn("", 3, says_all=True)]
    table = TextTable(columns, title="Search")
    table.add_row("trial-12-synthetic-only", "0.00137", "97.4 ± 1.1 %", "")
    table.add_row("trial-3", "0.0067", "–", "failed: the import of the pool was ended by somebody else meanwhile")
    return table


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_screen_and_no_word_is_broken_or_lost(table: TextTable, width: int) -> None:
    lines = printed(table, width)
    assert max(map(len, lines)) <= width
    assert {"trial-12-synthetic-only", "0.00137", "0.0067", "97.4", "somebody", "meanwhile"} <= words_of(lines)


def test_wide_screen_has_a_line_for_each_row(table: TextTable) -> None:
    title, heading, rule, *rows = printed(table, 160)
    assert title == "Search"
    assert heading.split() == ["trial", "generator_learning_rate", "validation", "accuracy"]
    assert set(rule) == {"─"}
    assert [row.split()[0] for row in rows] == ["trial-12-synthetic-only", "trial-3"]


def test_headings_are_wrapped_before_a_column_leaves(table: TextTable) -> None:
    narrow = TextTable([TextColumn("a"), TextColumn("validation accuracy", 1)])
    narrow.add_row("b", "97.4 %")
    assert [line.rstrip() for line in printed(narrow, 15)[:2]] == ["a  validation", "   accuracy"]


def test_column_of_the_highest_rank_leaves_first_for_a_second_line_with_its_heading(table: TextTable) -> None:
    lines = printed(table, 60)
    second = next(line for line in lines if line.startswith(" " * INDENT) and "0.0067" in line)
    assert "generator_learning_rate 0.0067, failed: the import" in second
    third = [line for line in lines if "0.00137" in line]
    assert third == [" " * INDENT + "generator_learning_rate 0.00137"]


def test_column_that_wraps_takes_what_the_others_leave() -> None:
    table = TextTable([TextColumn("check"), TextColumn("found", 1, wraps=True)], has_headings=False, has_rule=False)
    table.add_row("store", "a place that can be written to by every worker\n-> nothing to do")
    lines = printed(table, 40)
    assert [line[:5] for line in lines] == ["store", *[" " * 5] * (len(lines) - 1)]
    assert lines[-1].strip() == "-> nothing to do"
    assert max(map(len, lines)) <= 40


def test_word_that_is_longer_than_its_column_or_the_screen_stays_whole() -> None:
    digest, path = "f" * 64, "/scratch/" + "a-long-name-of-a-folder/" * 6
    table = TextTable([TextColumn("setting"), TextColumn("value", 1, wraps=True, says_all=True), TextColumn("from", 2)])
    for value in (digest, path, "7"):
        table.add_row("trial.data.candidates.sha256", value, "study.yaml:12")
    for width, value in itertools.product(WIDTHS, (digest, path)):
        assert value in words_of(printed(table, width))
    assert [line.split() for line in printed(table, 80)][-1] == ["trial.data.candidates.sha256", "7", "study.yaml:12"]


def test_wide_characters_are_counted_as_the_terminal_shows_them() -> None:
    table = TextTable([TextColumn("name"), TextColumn("n")], has_rule=False)
    table.add_row("学生", "1")
    table.add_row("abcd", "2")
    assert printed(table, 80)[1:] == ["学生  1", "abcd  2"]
