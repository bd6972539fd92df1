"""The command line of one trial on this machine, `python -m hidfd`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hidfd.addresses import is_on_s3
from hidfd.cli import Parser, Verb, parse, run_verb, trial_epilog
from hidfd.config import study_file as studyfile
from hidfd.config.schema import TrialConfig
from hidfd.config.storage import storage_from_environment
from hidfd.data.identify import identify, unreadable_materials
from hidfd.data.sources import materials
from hidfd.deployment import add_export_options, command_of, export, name_of, predict, trial_of
from hidfd.errors import ConfigError, InputError, StoreError
from hidfd.formatting import duration, percent, plural, points
from hidfd.pipeline.console import console_observer, interruptible
from hidfd.pipeline.costs import Costs
from hidfd.pipeline.graph import STAGE_NAMES, Stage, kept_digests, needed, plan
from hidfd.store.store import Store
from hidfd.text_table import TextColumn, TextTable

OWN_EXIT_CODES = {
    6: "a loss or a gradient became non-finite",
    12: "another process of the trial is lost; the same command goes on",
    17: "the student cannot be converted, or its exported network gives other answers (`export`)",
}
"""Exit codes of a trial besides `hidfd.cli.EXIT_CODES`, with their meaning."""

FILE_USAGE = "FILE [options] [key=value ...]"

PLAIN_WIDTH = 200
"""Columns of a table that is not shown on a terminal: wide, so that names in it can be copied."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Before torch is loaded: threads that wait actively slow each other down as soon as anything else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run_verb(parse(_parser(), words), "python -m hidfd", words)


def run(options: argparse.Namespace) -> None:
    """Run a trial, or those of its stages that are not in the store."""
    file, config = trial_of(options)
    if options.dry_run:
        _dry_run(file, config, options)
        return
    from hidfd.report.index import write_index
    from hidfd.report.links import REPORT, renew_navigation
    from hidfd.trial import run_trial

    store = Store.open(file.storage.store)
    with console_observer(quiet=options.json) as observer, interruptible(observer):
        config = identify(config, store, observer)
        # Named by the settings, so that a run with another override does not replace the results of this one.
        folder = Path(file.storage.results) / file.name / name_of(config)
        # Before anything is built, so that `store remove` keeps the artifacts of a killed run.
        _refer(store, file, config)
        result = run_trial(
            config, store, until=options.until, folder=folder, device=options.device, observer=observer, name=file.name
        )
    write_index(Path(file.storage.results))
    renew_navigation([folder / REPORT])
    if options.json:
        print(json.dumps({"metrics": result.metrics, "seconds": result.seconds, "folder": str(folder)}))
        return
    _print_result(result.metrics, result.seconds, result.reused)
    print(f"\nreport: {folder / 'report.html'}")
    for role, weights in (("teacher", "weights.safetensors"), ("distillation", "student.safetensors")):
        artifact = store.find(role, result.stages[role].digest)
        if artifact is not None and options.until in (role, "evaluation"):
            print(f"{'teacher' if role == 'teacher' else 'student'}: {artifact.path(weights)}")
    if options.until != "evaluation":
        print(f"next:   {command_of('run', options)}")
    elif "test" in result.stages:
        print(f"next:   {command_of('evaluate', options)} --test   (opens the test labels, once)")
    else:
        print(f"next:   {command_of('stages', options)}   (which stages are built)")


def import_material(options: argparse.Namespace) -> None:
    """Import the teacher and all images into the store, and print their sha256."""
    file, config = trial_of(options)
    from hidfd.trial import import_all

    store = Store.open(file.storage.store)
    with console_observer(quiet=options.json) as observer, interruptible(observer):
        config = identify(config, store, observer)
        # Before anything is imported, so that `store remove` keeps what an import that is under way has brought in.
        _refer(store, file, config)
        import_all(config, store, observer, Path(file.storage.results) / file.name)
    known = materials(config)
    imported = {where: material.sha256 for where, material in known.items()}
    if options.json:
        print(json.dumps(imported))
        return
    print("imported; in the study file, each sha256 may be added to the path or replace it")
    for where, sha256 in imported.items():
        order = known[where].label_order
        print(f"  trial.{where}: {{sha256: {sha256}{'' if order is None else f', label_order: {list(order)}'}}}")
    print(f"next: {command_of('run', options)}")


def stages(options: argparse.Namespace) -> None:
    """List each stage with its digest, built or missing, and the seconds that it took or is expected to take."""
    file, config = trial_of(options)
    store = Store.open(file.storage.store, writes=False)
    costs = Costs.of(store, on_damaged=_warn)
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
    columns = [TextColumn("stage"), TextColumn("digest", 1), TextColumn("", says_all=True), TextColumn("time")]
    table = TextTable(columns, has_rule=False)
    for row in rows:
        seconds = "" if row.get("seconds") is None else duration(row["seconds"])
        if "expected_seconds" in row:
            seconds = f"~ {duration(row['expected_seconds'])}"
        table.add_row(row["stage"], row["digest"][:12], "built" if row["built"] else "missing", seconds)
    _console().print(table, crop=False)
    if any("expected_seconds" in row for row in rows):
        print(f"~ expected, {costs.basis()}")
    missing = any(not row["built"] for row in rows)
    print(f"next: {command_of('run' if missing else 'evaluate', options)}")


def evaluate(options: argparse.Namespace) -> None:
    """Print a finished trial's metrics; `--test` opens the test labels, once."""
    file, config = trial_of(options)
    from hidfd.trial import evaluate_test

    store = Store.open(file.storage.store, writes=options.test)
    if options.test and config.data.test is None:
        raise ConfigError(
            "trial.data.test: missing, so there are no test labels to evaluate on; add the test split to the study file"
        )
    if options.test:
        config = identify(config, store)
        _refer(store, file, config)
        numbers = evaluate_test(config, store, device=options.device)
    else:
        stage = plan(identify(config, store))["evaluation"]
        finished = store.find("evaluation", stage.digest)
        if finished is None:
            raise StoreError(
                f"this trial is not finished ({stage.digest[:12]} is not in {store.uri}); run it first: "
                f"{command_of('run', options)}   (other overrides make another trial)"
            )
        numbers = finished.meta
    if options.json:
        print(json.dumps(numbers))
        return
    for name, value in numbers.items():
        if not isinstance(value, list):
            print(f"{name:<32} {value:.4f}" if isinstance(value, float) else f"{name:<32} {value}")


def new(options: argparse.Namespace) -> None:
    """Write a study file for your own teacher and photos; it trains nothing and overwrites nothing."""
    target = Path(options.file)
    if options.overrides:
        raise ConfigError(f"new: takes no overrides, found {' '.join(options.overrides)}; write them into the file")
    if target.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"new: {options.file}: expected the name of a study file, which ends in .yaml")
    if os.path.lexists(target):
        raise ConfigError(
            f"{target}: exists, and nothing is overwritten; name another file: python -m hidfd new FILE ..."
        )
    if not target.parent.is_dir():
        raise ConfigError(f"{target}: there is no folder {target.parent}; make it first")
    from hidfd.new_study.draft import draft
    from hidfd.new_study.photos import photo_facts
    from hidfd.new_study.weights import teacher_facts

    given = {name: getattr(options, name) for name in ("teacher", "images", "validation", "test")}
    given = {name: path for name, path in given.items() if path is not None}
    labelled = {name: given[name] for name in ("validation", "test") if name in given}
    written = draft(
        target.stem,
        {name: _path_from(target.parent, path) for name, path in given.items()},
        teacher_facts(options.teacher, options.weights, options.architecture),
        photo_facts(options.images, "--images"),
        {name: photo_facts(path, f"--{name}", is_labelled=True) for name, path in labelled.items()},
        preset=options.preset,
        is_study=options.study,
    )
    try:
        with target.open("xb") as file:
            file.write(written.text.encode())
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written ({error.strerror or error})") from error
    if options.json:
        print(json.dumps({"file": str(target), "found": written.found, "to_fill_in": written.to_fill_in}))
        return
    print("\n".join(written.found))
    print(f"written: {target}")
    for setting in written.to_fill_in:
        print(f"fill in: {setting}")
    print(f"next: {shlex.join(['python', '-m', 'tune' if options.study else 'hidfd', 'run', options.file])}")


def _path_from(folder: Path, path: str) -> str:
    """Return a path as a file in a folder has to name it; one that is absolute or on S3 stays so.

    Raises:
        ConfigError: a study file would read it as something else.
    """
    if "${" in path:
        raise ConfigError(f"{path}: a study file takes ${{NAME}} for an environment variable; give a path without it")
    if is_on_s3(path):
        return path
    found = path if Path(path).is_absolute() else os.path.relpath(Path(path).resolve(), folder.resolve())
    return str(Path(path).resolve()) if found.startswith("~") else found  # else a home directory


def store_verb(options: argparse.Namespace) -> None:
    """List the store, remove what no study refers to, or forget a study, so that its artifacts can be removed."""
    uri = storage_from_environment(options.store).store
    if "://" not in uri and not Path(uri).exists():
        raise StoreError(f"{uri}: there is no store; name one with --store or HIDFD_STORE")
    store = Store.open(uri)
    if options.action == "forget":
        _forget(store, options)
        return
    if options.names:
        raise ConfigError(f"store {options.action}: takes no name, found {' '.join(options.names)}")
    removes = options.action == "remove"
    entries = store.remove(dry_run=options.dry_run, on_damaged=_warn) if removes else store.list(_warn)
    if options.json:
        keys = ("kind", "stage", "digest", "bytes", "created", "referenced_by")
        print(json.dumps([{key: getattr(entry, key) for key in keys} for entry in entries]))
        return
    columns = [TextColumn("kind", 2), TextColumn("stage"), TextColumn("digest"), TextColumn("MB", is_right=True)]
    columns += [TextColumn("created", 3), TextColumn("referred to by", 4, wraps=True)]
    table = TextTable(columns, has_rule=False)
    for entry in entries:
        size, studies = f"{entry.bytes / 1e6:.1f}", ", ".join(entry.referenced_by)
        table.add_row(entry.kind, entry.stage, entry.digest[:12], size, entry.created or "", studies)
    _console().print(table, crop=False)
    verb = ("would remove" if options.dry_run else "removed") if removes else "in all"
    print(f"{verb}: {plural(len(entries), 'entry', 'entries')}, {sum(entry.bytes for entry in entries) / 1e6:.1f} MB")


def _warn(text: str) -> None:
    print(text, file=sys.stderr)


def _forget(store: Store, options: argparse.Namespace) -> None:
    known = store.references()
    unknown = [name for name in options.names if name not in known]
    if unknown or not options.names:
        found = f"no such name: {', '.join(unknown)}" if unknown else "no name given"
        raise ConfigError(
            f"store forget: {found}; expected names that `store list` shows: {', '.join(known) or 'none'}"
        )
    if not options.dry_run:
        for name in options.names:
            store.drop_references(name)
    if options.json:
        print(json.dumps({"forgotten": options.names}))
        return
    print(f"{'would forget' if options.dry_run else 'forgotten'}: {', '.join(options.names)}; nothing is deleted yet")
    print("next: python -m hidfd store remove --dry-run   (what no study refers to any more)")


def _refer(store: Store, file: studyfile.StudyFile, config: TrialConfig) -> None:
    """Record what this trial depends on, so that `store remove` keeps it."""
    store.write_references(f"{file.name}.{name_of(config)}", kept_digests(config))


def _all_stages(planned: dict[str, Stage]) -> list[Stage]:
    """Return the stages that the evaluation depends on, in building order, and the imports that only `--test` reads."""
    chain = list(needed(planned, "evaluation"))
    return [stage for stage in planned.values() if stage in chain or stage.name == "import"]


def _dry_run(file: studyfile.StudyFile, config: TrialConfig, options: argparse.Namespace) -> None:
    """Print every setting and all places, and look at every path.

    Raises:
        InputError, StoreError: one message for all that is missing or cannot be written to.
    """
    places_wrong = file.storage.unwritable(("store", "results"))
    try:
        materials_wrong = unreadable_materials(config, Store.open(file.storage.store, writes=False))
    except StoreError as error:
        materials_wrong = unreadable_materials(config, None)
        places_wrong = [str(error), *(words for words in places_wrong if not words.startswith("storage.store"))]
    problems = [*materials_wrong, *places_wrong]
    if not (options.json and problems):
        _print_provenance(file, options)
    if problems:
        raise (InputError if materials_wrong else StoreError)("\n".join(problems))
    if not options.json:
        print(f"nothing was run; next: {command_of('run', options)}")


def _print_provenance(file: studyfile.StudyFile, options: argparse.Namespace) -> None:
    rows = file.provenance()
    if options.json:
        print(json.dumps({path: {"value": value, "from": origin} for path, value, origin in rows}))
        return
    table = TextTable(
        [TextColumn("setting"), TextColumn("value", 1, wraps=True, says_all=True), TextColumn("from", 2)],
        has_rule=False,
    )
    for path, value, origin in rows:
        table.add_row(path, "" if value is None else str(value), origin)
    _console().print(table, crop=False)
    for name, place in file.storage.places().items():
        print(f"{name + ':':<10}{place}")


def _console() -> Console:
    return Console(markup=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def _print_result(metrics: dict[str, Any], seconds: dict[str, float], reused: tuple[str, ...]) -> None:
    console = _console()
    if metrics.get("agreement") is not None:
        error = points(metrics["agreement_standard_error"])
        console.print(f"agreement with the teacher  {percent(metrics['agreement'])} ± {error}  (n = 1)")
    if metrics.get("validation_accuracy") is not None:
        teacher = percent(metrics["teacher_validation_accuracy"])
        console.print(f"validation accuracy         {percent(metrics['validation_accuracy'])}  (teacher {teacher})")
    table = TextTable([TextColumn("stage"), TextColumn(""), TextColumn("seconds")], has_rule=False)
    for role, value in seconds.items():
        table.add_row(role, "reused" if role in reused else "built", duration(value))
    console.print(table, crop=False)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m hidfd",
        description="Hybrid data-free knowledge distillation: one trial on this machine.",
        epilog=trial_epilog("trial.distillation.inflation=5", OWN_EXIT_CODES),
    )

    def add(name: str, verb: Verb, usage: str = FILE_USAGE) -> Parser:
        sub = parser.add_verb(name, verb, usage)
        sub.add_argument("--store", help="folder or s3:// URI; default HIDFD_STORE, the file's, ./.hidfd/store")
        return sub

    sub = parser.add_verb("new", new, "[FILE] --teacher WEIGHTS --images FOLDER [options]")
    sub.add_argument("file", nargs="?", default="study.yaml", help="study file to write; default study.yaml")
    sub.add_argument("--teacher", required=True, help="its weights: .safetensors, .pt or .pth")
    sub.add_argument("--weights", metavar="KEY", help="of them, where the file holds several, such as averaged ones")
    sub.add_argument("--architecture", metavar="NAME", help="of the teacher, where it is timm:NAME, or several fit")
    sub.add_argument("--images", required=True, help="photos to collect from: a folder, a CSV, or Parquet")
    sub.add_argument("--validation", help="labelled photos: a folder with one folder for each class, a CSV, or Parquet")
    sub.add_argument("--test", help="more of them, whose labels are read once at the end")
    sub.add_argument("--preset", choices=("quick", "paper"), default="quick", help="for a CPU, or for a GPU")
    sub.add_argument("--study", action="store_true", help="add the sections of a search")
    sub = add("run", run)
    sub.add_argument("--until", default="evaluation", choices=STAGE_NAMES, help="last stage to build")
    sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    sub.add_argument(
        "--dry-run", action="store_true", help="print every setting and where it came from, and look at every path"
    )
    add("import", import_material)
    add("stages", stages)
    sub = add("evaluate", evaluate)
    sub.add_argument("--test", action="store_true", help="open the test labels")
    sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    sub = add("store", store_verb, "{list,remove,forget} [options]")
    sub.add_argument("action", choices=("list", "remove", "forget"))
    sub.add_argument(
        "names", nargs="*", default=[], metavar="NAME", help="for `forget`: names in the last column of `list`"
    )
    sub.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    add_export_options(add("export", export, "FILE --to FOLDER [options] [key=value ...]"))
    sub = add("predict", predict, "FILE_OR_BUNDLE IMAGES... [options] [key=value ...]")
    sub.add_argument("images", nargs="+", metavar="IMAGES", help="photos: files, folders, a CSV of paths, or Parquet")
    sub.add_argument("--to", metavar="OUT", help="new .csv or .parquet; default CSV on standard output")
    sub.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="of a trial's student; a bundle runs on CPUs"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
