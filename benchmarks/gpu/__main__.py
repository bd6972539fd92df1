"""Run every part of the measurement, each in a process of its own, in the order of their worth.

    python -m benchmarks.gpu [--device cuda|cpu] [--tiny] [--minutes 9] [--data FOLDER] [--output FOLDER]

A part that fails, hangs or takes more than its share of the minutes is ended and said in the record; the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu.images import find
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Options
from hidfd.errors import ConfigError, DeviceError, HidfdError, Stopped

ROOT = Path(__file__).parents[2]

CARRIED_DATA = ROOT / "gpu-carry/data"
"""Images that `make gpu-carry` has brought along."""

BUNDLED_DATA = ROOT / "studies/data/fashion"

PART = "part"
"""First argument of a part's process, before the part's name and its options."""

MAX_MINUTES = 24 * 60

SHARES = {"machine": 0.1, "compiled": 0.3, "rates": 0.32, "together": 0.12, "recipe": 1.0}
"""Part -> the largest share of the run's minutes that it may take; the last one has what is left."""


def main(arguments: list[str]) -> int:
    """Run the command line; return an exit code of `hidfd.errors`: 1 if a part failed, 130 if it was stopped."""
    if arguments[:1] == [PART]:
        return run_part(*arguments[1:])
    chosen = _parser().parse_args(arguments)
    if chosen.device == "cpu" and not chosen.tiny:
        print(
            "error: --device cpu: the paper's networks would take hours on a CPU; add --tiny, which tries every line "
            "with small ones, or use benchmarks.steps",
            file=sys.stderr,
        )
        return ConfigError.exit_code
    options = _options(chosen)
    try:
        find(Path(options.data))
        Record(Path(options.record)).begin(
            f"A GPU in {chosen.minutes:g} minutes" if options.device == "cuda" else "Every line, tried on a CPU",
            {"command": shlex.join(["python", "-m", "benchmarks.gpu", *arguments])},
        )
    except HidfdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: --output {chosen.output}: {error}", file=sys.stderr)
        return ConfigError.exit_code
    try:
        return _run_all(options)
    except KeyboardInterrupt:
        print(f"\nstopped; the rows until now are in {options.record}.md", file=sys.stderr)
        return Stopped.exit_code


def _run_all(options: Options) -> int:
    failed = []
    seconds: dict[str, int] = {}
    total = options.seconds
    for name, share in SHARES.items():
        started = time.time()
        problem = _run(name, replace(options, seconds=min(share * total, options.ends_at - started)))
        seconds[name] = round(time.time() - started)
        if name == "machine" and problem == f"ended with exit code {DeviceError.exit_code}":
            return DeviceError.exit_code
        if problem is not None:
            failed.append(f"{name} {problem}")
            Record(Path(options.record)).add_facts({"did not work": "; ".join(failed)})
    Record(Path(options.record)).add_facts({"seconds": ", ".join(f"{name} {took}" for name, took in seconds.items())})
    print(f"\nwritten: {options.record}.md and .json")
    return 1 if failed else 0


def command(name: str, options: Options) -> list[str]:
    """Return the command of a part's process."""
    return [sys.executable, "-m", "benchmarks.gpu", PART, name, json.dumps(asdict(options))]


def run_part(name: str, options: str) -> int:
    """Call `run` of the module of a part's name; return the exit code."""
    known = Options(**json.loads(options))
    try:
        importlib.import_module(f"benchmarks.gpu.{name}").run(known, Record(Path(known.record)))
    except HidfdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(name: str, options: Options) -> str | None:
    """Run a part in a process group of its own; return what went wrong, in words."""
    if options.seconds <= 1:
        return "was left out: no time was left"
    # A part that is ended cannot remove its own files. Compilers keep theirs there too, so they begin anew.
    with tempfile.TemporaryDirectory(prefix="hidfd-gpu-", ignore_cleanup_errors=True) as folder:
        environment = os.environ | {"TMPDIR": folder}
        process = subprocess.Popen(command(name, options), cwd=ROOT, env=environment, start_new_session=True)
        try:
            code = process.wait(timeout=options.seconds)
        except subprocess.TimeoutExpired:
            return f"was ended after its {options.seconds:.0f} s; the rows until then are here"
        finally:
            _kill_group(process)
    return None if code == 0 else f"ended with exit code {code}"


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever is left of a part's processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _options(chosen: argparse.Namespace) -> Options:
    data = chosen.data or (CARRIED_DATA if CARRIED_DATA.is_dir() else BUNDLED_DATA)
    day = datetime.now(tz=UTC).strftime("%Y-%m-%d")
    return Options(
        device=chosen.device,
        tiny=chosen.tiny,
        data=str(Path(data).resolve()),
        record=str(chosen.output.resolve() / f"{day}-{_device_name(chosen.device)}"),
        ends_at=time.time() + 60 * chosen.minutes,
        seconds=60 * chosen.minutes,
    )


def _device_name(device: str) -> str:
    """Return the device's name for a file: `nvidia-h200`, or `cpu`."""
    if device == "cuda":
        try:
            query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
            name = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
        except (OSError, subprocess.SubprocessError):
            return "cuda"
        return re.sub(r"[^a-z0-9]+", "-", name.splitlines()[0].lower()).strip("-") if name.strip() else "cuda"
    return device


def _minutes(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (minutes := float(text)) < MAX_MINUTES:
            return minutes
    raise argparse.ArgumentTypeError(f"{text}: must be a number above 0 and below {MAX_MINUTES}, such as 9")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="measure a GPU in minutes")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu takes --tiny (cuda)")
    parser.add_argument(
        "--tiny", action="store_true", help="small networks and budgets: tries every line in a minute or two"
    )
    parser.add_argument("--minutes", type=_minutes, default=9.0, help="of the whole run (9)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="Parquet files for the recipe: those with a column `label` for the teacher, others to collect from "
        "(gpu-carry/data, which `make gpu-carry` writes, if that is there; else the quickstart's Fashion-MNIST)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", default=ROOT / "benchmarks/gpu", help="for the record (benchmarks/gpu)"
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that parts end with it, as with Ctrl-C
    raise SystemExit(main(sys.argv[1:]))
