"""The shared part of all command lines: verbs, hints at mistyped options, errors as a message and an exit code."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import select
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from hidfd.errors import HidfdError, Stopped
from hidfd.formatting import near_match

Verb = Callable[[argparse.Namespace], None]

VERBS_OF = {
    "hidfd": ("new", "run", "import", "stages", "evaluate", "store", "export", "predict"),
    "tune": (
        *("plan", "check", "run", "status", "stop", "show", "explain", "report", "open", "promote", "forget"),
        "export",
    ),
    "k8s": ("preflight", "submit", "watch", "delete"),
}
"""The verbs of each command line, to name the one that has a verb which another was given."""

READER_GONE = 141
"""Exit code if the reader of the output has ended, as shells define it: 128 plus the number of SIGPIPE."""

EXIT_CODES = {
    0: "done",
    1: "an error of the program",
    2: "the study file, an override or an argument is wrong",
    3: "the material (images, Parquet, checkpoint) cannot be used",
    4: "the store is unwritable, full or damaged, or lacks what was asked for",
    5: "the device is not there, cannot do what was asked, or has too little memory",
    130: "stopped by Ctrl-C or SIGTERM; the same command goes on",
}
"""Exit codes that trials and studies share, with their meaning; see `hidfd.errors`."""


class Parser(argparse.ArgumentParser):
    """Argument parser with verbs, whose errors name the option that was probably meant; options cannot be abbreviated.

    Attributes:
        options: all `--options` that it knows.
    """

    def __init__(self, **settings: Any) -> None:
        self.options: list[str] = []
        self._verbs: Any = None
        super().__init__(**settings, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.allow_abbrev = False

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an argument as argparse does, and record its name if it is an option."""
        self.options += [name for name in names if str(name).startswith("--")]
        return super().add_argument(*names, **settings)

    def add_verb(self, name: str, verb: Verb, usage: str, json_help: str = "print JSON instead of text") -> Parser:
        """Add a verb with `--json` and, if its usage begins with FILE or FILE_OR_BUNDLE, a study file.

        Args:
            name: that is typed; in the options it is `verb_name`.
            verb: function that is called with the options; its docstring is the verb's help.
            usage: arguments of the verb, as its help shows them.

        Returns:
            The parser of the verb, for its own options; it has the epilog of this parser.
        """
        if self._verbs is None:
            self._verbs = self.add_subparsers(required=True, metavar="VERB")
        parser: Parser = self._verbs.add_parser(
            name, help=verb.__doc__, description=verb.__doc__, usage=f"%(prog)s {usage}", epilog=self.epilog
        )
        parser.set_defaults(verb=verb, verb_name=name, parser=parser)
        if usage.startswith("FILE"):
            metavar, help_text = usage.split(maxsplit=1)[0], "study file (YAML); key=value overrides may follow"
            help_text += "; or a folder that `export` wrote" if metavar != "FILE" else ""
            parser.add_argument("file", metavar=metavar, help=help_text)
        parser.add_argument("--json", action="store_true", help=json_help)
        return parser

    def error(self, message: str) -> NoReturn:
        """Print the usage, the message and the nearest choice, and exit with code 2."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice is not None:
            word, own = choice[1], [word.strip("' ") for word in choice[2].split(",")]
            others = [f"python -m {name} {word}" for name, verbs in VERBS_OF.items() if word in verbs]
            is_of_another = "argument VERB:" in message and bool(others)
            message += f"; did you mean {' or '.join(others)}?" if is_of_another else _hint(word, own)
        super().error(message)


def parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Return the options of a verb; if it takes a study file, the remaining words are its `overrides`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # characters that its encoding lacks; standard error escapes them
    options, rest = parser.parse_known_args(words)
    unknown = [word for word in rest if word.startswith("-") or "file" not in options]
    if unknown:
        known: Parser = options.parser
        hints = (_hint(word.partition("=")[0], known.options) for word in unknown)
        near = next(filter(None, hints), f"; known: {', '.join(known.options)}")
        known.error(f"unknown arguments: {' '.join(unknown)}{near}")
    options.overrides = rest
    return options


_running: list[argparse.Namespace] = []
"""Options of the verb that is run, the innermost last."""


def run_verb(options: argparse.Namespace, program: str, words: Sequence[str]) -> int:
    """Run the parsed verb; turn an error of this project into a message and its exit code.

    Args:
        options: of the verb, with `verb` and `json`.
        program, words: as typed, to print the command that resumes a stopped run.

    Returns:
        The exit code.
    """
    _running.append(options)
    try:
        code = _exit_code(options, program, words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return READER_GONE
    finally:
        _running.pop()
    return code


def exit_at_once(error: HidfdError) -> NoReturn:
    """Say an error as `run_verb` does, and end this process from a thread whose main thread waits for ever."""
    _say(error, as_json=bool(_running) and _running[-1].json)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(error.exit_code)


def _exit_code(options: argparse.Namespace, program: str, words: Sequence[str]) -> int:
    try:
        options.verb(options)
    except HidfdError as error:
        _say(error, as_json=options.json)
        if isinstance(error, Stopped):
            print(f"goes on with: {program} {shlex.join(words)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # outside of the parts that save before they stop
        print("stopped by Ctrl-C; nothing was under way that needed saving", file=sys.stderr)
        return Stopped.exit_code
    return 0


def _say(error: HidfdError, *, as_json: bool) -> None:
    if as_json:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        print(json.dumps({"event": "error", "time": now, "error": str(error), "exit_code": error.exit_code}))
    print(f"error: {error}", file=sys.stderr)


def _reader_is_gone() -> bool:
    """Whether the reader of the output has ended, as after `| head`; if so, further output is discarded."""
    printed = select.poll()
    printed.register(sys.stdout.fileno(), 0)
    is_gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in printed.poll(0))
    if is_gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest of the output is flushed there
    return is_gone


def trial_epilog(example: str, own_codes: Mapping[int, str]) -> str:
    """Return the end of the help of a command line that takes a study file: overrides and exit codes.

    Args:
        example: an override.
        own_codes: exit codes besides `EXIT_CODES`.
    """
    codes = "\n".join(f"{code:>5}  {meaning}" for code, meaning in sorted({**EXIT_CODES, **own_codes}.items()))
    overrides = f"any number of key=value overrides may follow FILE, with dotted keys, such as {example}"
    return f"{overrides}\n\nexit codes:\n{codes}\n"


def _hint(word: str, known: Sequence[str]) -> str:
    near = near_match(word, known)
    return "" if near is None else f"; did you mean {near}?"
