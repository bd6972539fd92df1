"""Mistyped verbs: the nearest one is named, or the command line that has the verb."""

import argparse

import pytest

import hidfd.__main__
import k8s.__main__
import tune.__main__
from hidfd.cli import VERBS_OF, Parser

PARSERS = {"hidfd": hidfd.__main__._parser, "tune": tune.__main__._parser, "k8s": k8s.__main__._parser}


def test_verbs_of_the_command_lines_are_those_that_hints_know() -> None:
    for name, make in PARSERS.items():
        assert _verbs(make()) == VERBS_OF[name]


@pytest.mark.parametrize(
    ("program", "verb", "meant"),
    [
        ("hidfd", "status", "python -m tune status"),
        ("hidfd", "submit", "python -m k8s submit"),
        ("tune", "import", "python -m hidfd import"),
        ("k8s", "run", "python -m hidfd run or python -m tune run"),
        ("tune", "statsu", "status"),
    ],
)
def test_verb_of_another_command_line_is_said_to_be_its(
    program: str, verb: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        PARSERS[program]().parse_args([verb, "mine.yaml"])
    assert capsys.readouterr().err.rstrip().endswith(f"; did you mean {meant}?")


def _verbs(parser: Parser) -> tuple[str, ...]:
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return tuple(verbs.choices)
