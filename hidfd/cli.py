"""What the command lines of this project share: near misses named, errors as one message and an exit code."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import select
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from hidfd.errors import HidfdError, Stopped

READER_GONE = 141
"""Exit code of a program whose reader has gone, as shells know it: 128 and the number of SIGPIPE."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints name what was probably meant. No option can be abbreviated.

    Attributes:
        options: every `--option` that it knows.
    """

    def __init__(self, **settings: Any) -> None:
        self.options: list[str] = []
        super().__init__(**settings, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.allow_abbrev = False

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """As argparse does."""
        self.options += [name for name in names if str(name).startswith("--")]
        return super().add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        """Usage, the message and the nearest choice; exit code 2."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice is not None:
            message += _meant(choice[1], [word.strip("' ") for word in choice[2].split(",")])
        super().error(message)


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """The options of a verb; what is left over are `overrides` of a study file, where the verb takes one.

    Every verb's own parser stands in its options as `parser`.
    """
    options, rest = parser.parse_known_args(words)
    unknown = [word for word in rest if word.startswith("-") or "file" not in options]
    if unknown:
        known: Parser = options.parser
        near = next((meant for word in unknown if (meant := _meant(word.partition("=")[0], known.options))), "")
        known.error(f"unknown arguments: {' '.join(unknown)}{near}")
    options.overrides = rest
    return options


def run_verb(options: argparse.Namespace, program: str, words: Sequence[str]) -> int:
    """Run the verb that was parsed; an error of this project becomes a message and its exit code.

    Args:
        options: with `verb`, `json`.
        program, words: as typed, for the command that goes on.
    """
    try:
        code = _exit_code(options, program, words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return READER_GONE
    return code


def _exit_code(options: argparse.Namespace, program: str, words: Sequence[str]) -> int:
    try:
        options.verb(options)
    except HidfdError as error:
        if options.json:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            print(json.dumps({"event": "error", "time": now, "error": str(error), "exit_code": error.exit_code}))
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, Stopped):
            print(f"goes on with: {program} {shlex.join(words)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before or after what can be interrupted with care
        print("stopped by Ctrl-C; nothing was under way that needed saving", file=sys.stderr)
        return Stopped.exit_code
    return 0


def _reader_is_gone() -> bool:
    """Whether nobody reads what this prints any more, as after `| head`; then nothing more is said."""
    printed = select.poll()
    printed.register(sys.stdout.fileno(), 0)
    is_gone = any(what & (select.POLLERR | select.POLLHUP) for _, what in printed.poll(0))
    if is_gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest is flushed to
    return is_gone


def _meant(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
