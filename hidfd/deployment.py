"""Verbs that use a finished student, `export` and `predict`, and the trial that a command line names."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hidfd.cli import Parser
from hidfd.config import study_file as studyfile
from hidfd.config.schema import TrialConfig
from hidfd.config.storage import redacted
from hidfd.data.identify import identify
from hidfd.data.readers import Columns
from hidfd.errors import ConfigError, StoreError
from hidfd.export.formats import Format, check_can_write
from hidfd.export.target import check_target
from hidfd.formatting import relative_paths
from hidfd.pipeline.console import console_observer, interruptible
from hidfd.pipeline.graph import plan, test_evaluation_of
from hidfd.store.store import Store

if TYPE_CHECKING:
    from hidfd.export.bundle import StudentExport
    from hidfd.prediction.classifiers import Classifier

_OVERRIDE = re.compile(r"(?:name|storage|resources|trial|study|search|cluster)[.\w]*=", re.ASCII)
"""Beginning of an override, which may stand among the images of `predict`."""


def add_export_options(parser: Parser) -> None:
    """Add the options of `export` to its parser."""
    parser.add_argument("--to", metavar="FOLDER", required=True, help="new folder; an earlier export is replaced")
    parser.add_argument("--format", default="onnx", choices=get_args(Format), help="of the network; default onnx")


def export(options: argparse.Namespace) -> None:
    """Export the trial's student into a folder that another machine can use without this project."""
    check_target(Path(options.to))
    check_can_write(options.format)
    file, config = trial_of(options)
    store = Store.open(file.storage.store, writes=False)
    config = identify(config, store)
    _check_finished(config, store, options)
    from hidfd.export.bundle import export_student
    from hidfd.export.card import StudentOrigin

    origin = StudentOrigin(
        study=file.name,
        label=name_of(config),
        command=relative_paths(command_of("run", options)),
        metrics=_metrics_of(config, store),
    )
    exported = export_student(config, store, origin, format_=options.format, folder=Path(options.to))
    print_export(exported, as_json=options.json)


def print_export(exported: StudentExport, *, as_json: bool) -> None:
    """Print what was exported, and what can be done with it."""
    if as_json:
        print(json.dumps(exported.to_json()))
        return
    for line in exported.in_words():
        print(line)
    folder = exported.folder
    print(
        f"next: {shlex.join(['python', '-m', 'hidfd', 'predict', str(folder), 'IMAGES'])}   (or see {folder}/README.md)"
    )


def predict(options: argparse.Namespace) -> None:
    """Name the classes of images, by the student of a study file's trial or by an exported one (BUNDLE)."""
    words = [*options.images, *options.overrides]
    options.overrides = [word for word in words if _OVERRIDE.match(word) and not Path(word).exists()]
    places = [word for word in words if word not in options.overrides]
    target = None if options.to is None else Path(options.to)
    from hidfd.prediction.images import encoded_images
    from hidfd.prediction.predict import predict as predict_images
    from hidfd.prediction.tables import check_new_table, open_table

    if target is not None:
        check_new_table(target)
    if not places:
        raise ConfigError("predict: no images given; name photos, folders of photos, a CSV of paths, or Parquet")
    classifier, columns = _classifier(options)
    settings = classifier.preprocessing
    images = encoded_images(places, settings.channels * settings.image_size_pixels**2, columns)
    with (
        console_observer(quiet=options.json) as observer,
        interruptible(observer),
        open_table(target, has_teacher=classifier.has_teacher, as_json=options.json) as table,
    ):
        summary = predict_images(classifier, images, table, observer)
        if target is None:
            observer.note(summary.in_words())
    if target is not None and options.json:
        print(json.dumps(summary.to_json() | {"file": str(target)}))
    elif target is not None:
        print(f"{summary.in_words()}\nwritten: {target}")


def trial_of(options: argparse.Namespace) -> tuple[studyfile.StudyFile, TrialConfig]:
    """Return the study file of a command line, and its trial.

    Raises:
        ConfigError: an override is of a study, or the file is wrong.
    """
    foreign = [word for word in options.overrides if word.startswith(("study.", "search.", "cluster."))]
    if foreign:
        raise ConfigError(f"{', '.join(foreign)}: one trial has no such section; `python -m tune` runs studies")
    file = studyfile.load(options.file, options.overrides, store=options.store)
    return file, file.trial()


def name_of(config: TrialConfig) -> str:
    """Return the name of a trial whose materials are identified, derived from the digest of its evaluation."""
    return f"trial-{plan(config)['evaluation'].digest[:8]}"


def command_of(verb: str, options: argparse.Namespace) -> str:
    """Return the command line of another verb for the same trial."""
    store = [] if options.store is None else ["--store", redacted(options.store)]
    return shlex.join(["python", "-m", "hidfd", verb, options.file, *options.overrides, *store])


def _classifier(options: argparse.Namespace) -> tuple[Classifier, Columns]:
    """Return the student that is asked, and the columns of Parquet that its study file names."""
    from hidfd.prediction.classifiers import bundle_classifier, trial_classifier

    if Path(options.file).is_dir():
        if options.overrides:
            raise ConfigError(f"{options.file}: an exported student takes no overrides: {' '.join(options.overrides)}")
        return bundle_classifier(Path(options.file)), Columns()
    file, config = trial_of(options)
    store = Store.open(file.storage.store, writes=False)
    config = identify(config, store)
    _check_finished(config, store, options)
    return trial_classifier(config, store, options.device), Columns(config.data.image_column)


def _check_finished(config: TrialConfig, store: Store, options: argparse.Namespace) -> None:
    """Check that a trial's student is in the store.

    Raises:
        StoreError: it is not; the message names the command that trains it.
    """
    stage = plan(config)["distillation"]
    if store.find(stage.name, stage.digest) is None:
        raise StoreError(
            f"this trial has no finished student ({stage.digest[:12]} is not in {store.uri}); run it first: "
            f"{command_of('run', options)}   (other overrides make another trial)"
        )


def _metrics_of(config: TrialConfig, store: Store) -> Mapping[str, Any]:
    """Return the numbers of a trial, as `result.json` has them, with those of its test labels if they were opened."""
    from hidfd.distributed.device import resolve_device
    from hidfd.report.folder import Built, result_of
    from hidfd.stages.inputs import StageInputs

    stages, device = plan(config), resolve_device("cpu", "fp32")
    built = Built(config, stages, store, device, {}, (), StageInputs(config, stages, store, device))
    metrics = result_of(built, "evaluation")
    if "test" in stages:
        stage = test_evaluation_of(stages)
        opened = store.find(stage.name, stage.digest)
        metrics |= {} if opened is None else opened.meta
    return metrics
