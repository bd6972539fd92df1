"""The process of one part: `python -m benchmarks.gpu.part NAME OPTIONS` calls `run` of the module of that name."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Options
from hidfd.errors import HidfdError


def command(name: str, options: Options) -> list[str]:
    """Return the command that runs a part."""
    return [sys.executable, "-m", "benchmarks.gpu.part", name, json.dumps(asdict(options))]


def main(name: str, options: str) -> int:
    """Run a part; return its exit code."""
    known = Options(**json.loads(options))
    try:
        importlib.import_module(f"benchmarks.gpu.{name}").run(known, Record(Path(known.record)))
    except HidfdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
