"""`python -m hidfd`: one trial on this machine."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from hidfd.cli import Parser, parse, run_verb
from hidfd.config import study_file as studyfile
from hidfd.config.schema import TrialConfig
from hidfd.data.identify import identify
from hidfd.data.sources import materials
from hidfd.errors import ConfigError, StoreError
from hidfd.formatting import duration
from hidfd.pipeline.console import console_observer, interruptible
from hidfd.pipeline.costs import Costs
from hidfd.pipeline.graph import STAGE_NAMES, Stage, kept_digests, needed, plan
from hidfd.store.store import Store

EPILOG = """\
any number of key=value overrides may follow FILE, with dotted keys, such as trial.distillation.inflation=5

exit codes:
    0  done
    1  an error of the program
    2  the study file, an override or an argument is wrong
    3  the material (images, Parquet, checkpoint) cannot be used
    4  the store is unwritable, full or damaged, or lacks what was asked for
    5  the device is not there, or cannot do what was asked
    6  a loss or a gradient became non-finite
   12  another process of the trial is lost; the same command goes on
  130  stopped by Ctrl-C or SIGTERM; the same command goes on
"""


PLAIN_WIDTH = 200
"""Columns of a table that is not shown on a terminal: names in it are there to be copied."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_verb(parse(_parser(), words), "python -m hidfd", words)


def run(options: argparse.Namespace) -> None:
    """Run a trial, or what is missing of it."""
    file, config = _trial(options)
    if options.dry_run:
        _print_provenance(file, options)
        return
    from hidfd.trial import run_trial

    store = Store.open(file.storage.store)
    with console_observer(quiet=options.json) as observer, interruptible(observer):
        config = identify(config, store)
        # One folder and one entry for each setting: another override does not replace what this one has made.
        folder = Path(file.storage.results) / file.name / _name_of(config)
        # Before anything is built, so that what a killed run leaves is not taken for garbage.
        _refer(store, file, config)
        result = run_trial(
            config, store, until=options.until, folder=folder, device=options.device, observer=observer, name=file.name
        )
    if options.json:
        print(json.dumps({"metrics": result.metrics, "seconds": result.seconds, "folder": str(folder)}))
        return
    _print_result(result.metrics, result.seconds, result.reused)
    print(f"\nreport: {folder / 'report.html'}")
    for role, weights in (("teacher", "weights.safetensors"), ("distillation", "student.safetensors")):
        made = store.find(role, result.stages[role].digest)
        if made is not None and options.until in (role, "evaluation"):
            print(f"{'teacher' if role == 'teacher' else 'student'}: {made.path(weights)}")
    if options.until != "evaluation":
        print(f"next:   {_command('run', options)}")
    elif "test" in result.stages:
        print(f"next:   {_command('evaluate', options)} --test   (opens the test labels, once)")
    else:
        print(f"next:   {_command('stages', options)}   (what stands in the store)")


def import_material(options: argparse.Namespace) -> None:
    """Bring the teacher and all images into the store, and print their sha256."""
    file, config = _trial(options)
    from hidfd.trial import import_all

    store = Store.open(file.storage.store)
    with console_observer(quiet=options.json) as observer, interruptible(observer):
        identified = import_all(config, store, observer)
        _refer(store, file, identified)
    found = {where: material.sha256 for where, material in materials(identified).items()}
    if options.json:
        print(json.dumps(found))
        return
    print("in the store; beside or in place of its path, the study file may give each one's")
    for where, sha256 in found.items():
        print(f"  trial.{where}: {{sha256: {sha256}}}")
    print(f"next: {_command('run', options)}")


def stages(options: argparse.Namespace) -> None:
    """List each stage with its digest, built or missing, and the seconds that it took or is expected to take."""
    file, config = _trial(options)
    store = Store.open(file.storage.store)
    costs = Costs.of(store)
    rows: list[dict[str, Any]] = []
    for stage in _all_stages(plan(identify(config, store))):
        artifact = store.find(stage.name, stage.digest)
        row: dict[str, Any] = {"stage": stage.role, "digest": stage.digest, "built": artifact is not None}
        if artifact is not None:
            row["seconds"] = artifact.meta.get("seconds")
        elif (expected := costs.seconds(stage)) is not None:
            row["expected_seconds"] = expected
        rows.append(row)
    if options.json:
        print(json.dumps(rows))
        return
    table = Table("stage", "digest", "", "time", box=None)
    for row in rows:
        seconds = "" if row.get("seconds") is None else duration(row["seconds"])
        if "expected_seconds" in row:
            seconds = f"~ {duration(row['expected_seconds'])}"
        table.add_row(row["stage"], row["digest"][:12], "built" if row["built"] else "missing", seconds)
    _console().print(table)
    if any("expected_seconds" in row for row in rows):
        print(f"~ expected, {costs.basis()}")
    missing = any(not row["built"] for row in rows)
    print(f"next: {_command('run' if missing else 'evaluate', options)}")


def evaluate(options: argparse.Namespace) -> None:
    """Print a finished trial's numbers; `--test` opens the test labels, once."""
    file, config = _trial(options)
    from hidfd.trial import evaluate_test

    store = Store.open(file.storage.store)
    if options.test and config.data.test is None:
        raise ConfigError("trial.data.test: the study file names no test split, whose labels could be opened")
    if options.test:
        numbers = evaluate_test(config, store, device=options.device)
    else:
        stage = plan(identify(config, store))["evaluation"]
        finished = store.find("evaluation", stage.digest)
        if finished is None:
            raise StoreError(
                f"this trial is not finished ({stage.digest[:12]} is not in {store.uri}); run it first: "
                f"{_command('run', options)}   (other overrides make another trial)"
            )
        numbers = finished.meta
    if options.json:
        print(json.dumps(numbers))
        return
    for name, value in numbers.items():
        if not isinstance(value, list):
            print(f"{name:<32} {value:.4f}" if isinstance(value, float) else f"{name:<32} {value}")


def store_verb(options: argparse.Namespace) -> None:
    """List the store, remove what no kept study refers to, or forget a study so that it no longer keeps anything."""
    uri = studyfile.storage_from_environment(options.store).store
    if "://" not in uri and not Path(uri).exists():
        raise StoreError(f"{uri}: there is no store; name it by --store or HIDFD_STORE")
    store = Store.open(uri)
    if options.action == "forget":
        _forget(store, options)
        return
    if options.names:
        raise ConfigError(f"store {options.action}: takes no name, found {' '.join(options.names)}")
    rows = store.remove(dry_run=options.dry_run) if options.action == "remove" else store.list()
    if options.json:
        keys = ("kind", "stage", "digest", "bytes", "created", "referenced_by")
        print(json.dumps([{key: getattr(row, key) for key in keys} for row in rows]))
        return
    table = Table("kind", "stage", "digest", "MB", "created", Column("referred to by", overflow="fold"), box=None)
    for row in rows:
        studies = ", ".join(row.referenced_by)
        table.add_row(row.kind, row.stage, row.digest[:12], f"{row.bytes / 1e6:.1f}", row.created or "", studies)
    _console().print(table)
    verb = ("would remove" if options.dry_run else "removed") if options.action == "remove" else "in all"
    print(f"{verb}: {len(rows)} entries, {sum(row.bytes for row in rows) / 1e6:.1f} MB")


def _forget(store: Store, options: argparse.Namespace) -> None:
    known = store.references()
    unknown = [name for name in options.names if name not in known]
    if unknown or not options.names:
        found = f"no such name: {', '.join(unknown)}" if unknown else "which one?"
        raise ConfigError(
            f"store forget: {found}; `store list` shows who refers to what: {', '.join(known) or 'nobody'}"
        )
    if not options.dry_run:
        for name in options.names:
            store.drop_references(name)
    if options.json:
        print(json.dumps({"forgotten": options.names}))
        return
    print(f"{'would forget' if options.dry_run else 'forgotten'}: {', '.join(options.names)}; nothing is deleted yet")
    print("next: python -m hidfd store remove --dry-run   (what nobody refers to any more)")


def _trial(options: argparse.Namespace) -> tuple[studyfile.StudyFile, TrialConfig]:
    foreign = [word for word in options.overrides if word.startswith(("study.", "search.", "cluster."))]
    if foreign:
        raise ConfigError(f"{', '.join(foreign)}: one trial has no such section; `python -m tune` runs studies")
    file = studyfile.load(options.file, options.overrides, store=options.store)
    return file, file.trial()


def _name_of(config: TrialConfig) -> str:
    """Of a trial whose materials are identified: known by what it ends in."""
    return f"trial-{plan(config)['evaluation'].digest[:8]}"


def _refer(store: Store, file: studyfile.StudyFile, config: TrialConfig) -> None:
    """`store remove` shall spare what this trial rests on."""
    store.write_references(f"{file.name}.{_name_of(config)}", kept_digests(config))


def _all_stages(planned: dict[str, Stage]) -> list[Stage]:
    """What the evaluation rests on, in building order, and imports that only a later verb reads."""
    chain = list(needed(planned, "evaluation"))
    return [stage for stage in planned.values() if stage in chain or stage.name == "import"]


def _command(verb: str, options: argparse.Namespace) -> str:
    """Another verb on the same trial, as one types it."""
    store = [] if options.store is None else ["--store", studyfile.redacted(options.store)]
    return shlex.join(["python", "-m", "hidfd", verb, options.file, *options.overrides, *store])


def _print_provenance(file: studyfile.StudyFile, options: argparse.Namespace) -> None:
    rows = file.provenance()
    if options.json:
        print(json.dumps({path: {"value": value, "from": origin} for path, value, origin in rows}))
        return
    table = Table(box=None)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    for path, value, origin in rows:
        table.add_row(path, "" if value is None else str(value), origin)
    _console().print(table)
    print(f"nothing was run; next: {_command('run', options)}")


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)


def _print_result(metrics: dict[str, Any], seconds: dict[str, float], reused: tuple[str, ...]) -> None:
    console = _console()
    if metrics.get("agreement") is not None:
        error = 100 * metrics["agreement_standard_error"]
        console.print(f"agreement with the teacher  {100 * metrics['agreement']:.1f} % ± {error:.1f}  (n = 1)")
    if metrics.get("validation_accuracy") is not None:
        teacher = 100 * metrics["teacher_validation_accuracy"]
        console.print(
            f"validation accuracy         {100 * metrics['validation_accuracy']:.1f} %  (teacher {teacher:.1f} %)"
        )
    table = Table("stage", "", "seconds", box=None)
    for role, value in seconds.items():
        table.add_row(role, "reused" if role in reused else "built", duration(value))
    console.print(table)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m hidfd",
        description="Hybrid data-free knowledge distillation: one trial on this machine.",
        epilog=EPILOG,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(name: str, verb: Callable[[argparse.Namespace], None], *, file: bool = True) -> Parser:
        sub = verbs.add_parser(
            name,
            help=verb.__doc__,
            description=verb.__doc__,
            usage="%(prog)s FILE [options] [key=value ...]" if file else "%(prog)s {list,remove,forget} [options]",
            epilog=EPILOG,
        )
        sub.set_defaults(verb=verb, parser=sub)
        if file:
            sub.add_argument("file", metavar="FILE", help="study file (YAML); key=value overrides may follow")
        sub.add_argument("--store", help="folder or s3:// URI; default HIDFD_STORE, the file's, ./.hidfd/store")
        sub.add_argument("--json", action="store_true", help="print JSON instead of text")
        return sub

    sub = add("run", run)
    sub.add_argument("--until", default="evaluation", choices=STAGE_NAMES, help="last stage to build")
    sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    sub.add_argument("--dry-run", action="store_true", help="print every setting and where it came from")
    add("import", import_material)
    add("stages", stages)
    sub = add("evaluate", evaluate)
    sub.add_argument("--test", action="store_true", help="open the test labels")
    sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    sub = add("store", store_verb, file=False)
    sub.add_argument("action", choices=("list", "remove", "forget"))
    sub.add_argument("names", nargs="*", default=[], metavar="NAME", help="whom `forget` forgets, as `list` shows them")
    sub.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
