"""Fill in the sha256 of every material of a trial, and how the labels of labelled ones map to its classes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from hidfd.addresses import is_on_s3
from hidfd.config.paths import with_values
from hidfd.config.schema import DataConfig, Material, TrialConfig
from hidfd.data.label_names import order_of
from hidfd.data.readers import names_of_labels
from hidfd.data.sources import Files, Watch, content_sha256, files_of, located, materials
from hidfd.errors import InputError, Stopped
from hidfd.pipeline.graph import Stage, plan
from hidfd.pipeline.known_networks import recall_networks
from hidfd.pipeline.observer import Observer
from hidfd.pipeline.stage_specs import MATERIAL_SETTINGS
from hidfd.store.store import Store

UNKNOWN = "0" * 64
"""The sha256 in place of one that is not known yet."""

SAID_EVERY_SECONDS = 10.0
"""Seconds between two lines on how many files are read."""

LABELLED = ("teacher_images", "validation", "test")
"""Roles of labelled images. The first that has names gives them to the classes where the study file has none."""


def identify(config: TrialConfig, store: Store | None = None, observer: Observer | None = None) -> TrialConfig:
    """Return the trial with the sha256 of every material, the names of the classes and the order of labels filled in.

    A material with a sha256 is not read if its import is in the store. If it is not, and the path exists, the content
    must have that sha256; a path that does not exist is reported by the stage that needs it. Names of labels are read
    from the store, or from the files.

    Args:
        store: where imports are looked up; None = every material with an existing path is read.
        observer: is told of long readings and may stop them; None = nobody.

    Raises:
        Stopped: the observer asked for it.
        InputError: a path without sha256 does not exist, content and sha256 differ, or names of labels match no class;
            one message names all of them.
    """
    observer = observer or Observer()
    values: dict[str, Any] = {}
    problems: list[str] = []
    unread: dict[str, Material] = {}
    for where, material in materials(config).items():
        if material.sha256 is not None:
            unread[where] = material
            continue
        assert material.path is not None
        try:
            sha256 = content_sha256(material.path, f"trial.{where}.path", _watch(where, observer))
            values[f"{where}.sha256"] = sha256
            if is_on_s3(material.path):
                spares = "written beside its path, it spares reading all of it from S3 in every run"
                observer.note(f"trial.{where}: sha256 {sha256}; {spares}")
        except InputError as error:
            problems.append(str(error))
    if not problems:
        config = with_values(config, values) if values else config
        for where in _imported(config, store):
            unread.pop(where, None)
    for where, material in unread.items():
        try:
            if _files_at(material.path) is not None:
                located(material, material.sha256, f"trial.{where}", _watch(where, observer))
        except InputError as error:
            problems.append(str(error))
    if not problems:
        config = _with_names(config, store, problems)
        if store is not None:
            recall_networks(config, store)
    if problems:
        raise InputError("\n".join(problems))
    return config


def unreadable_materials(config: TrialConfig, store: Store | None) -> list[str]:
    """Return a message for each material whose files are not there or may not be read; nothing is read.

    Args:
        store: a material with a sha256 whose import is there needs no files; None = it cannot be asked.

    Raises:
        StoreError: the store cannot be read.
    """
    found, problems = materials(config), []
    unknown = {f"{where}.sha256": UNKNOWN for where, material in found.items() if material.sha256 is None}
    imported = _imported(with_values(config, unknown), store)
    for where, material in found.items():
        if where in imported and material.sha256 is not None:
            continue
        if material.path is None:
            if store is None:
                continue
            problems.append(
                f"trial.{where}: sha256 {material.sha256} is not in the store {store.uri}; give the path of its files "
                f"as well, or the store that has it"
            )
            continue
        try:
            files = files_of(material.path, f"trial.{where}.path")
        except InputError as error:
            problems.append(str(error))
            continue
        is_asked = files.kind != "images" and not files.is_remote
        closed = [path for path in files.paths if is_asked and not os.access(str(path), os.R_OK)]
        problems += [f"trial.{where}.path: {path}: no permission to read it" for path in closed]
    return problems


def _watch(where: str, observer: Observer) -> Watch:
    """Return a function that tells of the reading of a material every ten seconds, and stops it."""
    said = time.monotonic()

    def watch(done: int, total: int) -> None:
        nonlocal said
        reason = observer.should_stop()
        if reason is not None:
            raise Stopped(f"trial.{where}: stopped ({reason}) while its files were read; nothing was begun")
        if time.monotonic() - said >= SAID_EVERY_SECONDS:
            said = time.monotonic()
            observer.note(f"trial.{where}: read {done:,} of {total:,} files, to know them by their content")

    return watch


def _imported(config: TrialConfig, store: Store | None) -> list[str]:
    """Return the settings of the materials whose import is in the store."""
    if store is None:
        return []
    stages = plan(config)
    return [
        where
        for role, where in MATERIAL_SETTINGS.items()
        if role in stages and store.find(stages[role].name, stages[role].digest) is not None
    ]


def _files_at(path: str | None) -> Files | None:
    """Return the files of a material; None if they are not on this machine."""
    try:
        return None if path is None else files_of(path)
    except InputError:
        return None


def _with_names(config: TrialConfig, store: Store | None, problems: list[str]) -> TrialConfig:
    """Return the trial with the names of its classes and the order of its labels, as far as the materials tell."""
    stages, given = plan(config), materials(config)
    found: dict[str, tuple[tuple[str, ...], bool]] = {}
    for role in LABELLED:
        where = MATERIAL_SETTINGS[role]
        if role not in stages:
            continue
        try:
            names = _names_in_store(stages[role], store)
            if names is not None:
                found[where] = names, False
            elif _is_known_to_lack_names(stages[role], store):
                continue
            elif (files := _files_at(given[where].path)) is not None:
                if (read := names_of_labels(files, f"trial.{where}", config.data.label_column)) is not None:
                    found[where] = read, files.kind == "images"
            elif (names := _names_of_content(given[where], store)) is not None:
                found[where] = names, False
        except InputError as error:
            problems.append(str(error))
    beside = None
    if not config.data.class_names:
        beside = next((where for where, (names, _) in found.items() if _may_name_classes(names, config.data)), None)
        if beside is not None:
            config = with_values(config, {"data.class_names": found[beside][0]})
    values: dict[str, Any] = {}
    as_they_stand = tuple(range(config.data.num_classes))
    for where, (names, are_folders) in found.items():
        stated = given[where].label_order
        # Folders that are numbers would else be read as the numbers of classes.
        is_kept = are_folders and all(name.isdecimal() for name in names)
        try:
            order = order_of(names, config.data, f"trial.{where}", are_folders=are_folders, beside=beside)
        except InputError as error:
            if stated is None:
                problems.append(str(error))
            continue
        if stated is None:
            values[f"{where}.label_order"] = order if is_kept or order != as_they_stand else None
        elif order is not None and stated != order:
            problems.append(
                f"trial.{where}.label_order: {list(stated)}, but by their names the labels are of the classes "
                f"{list(order)}; leave it out, or correct trial.data.class_names"
            )
    changes = {where: order for where, order in values.items() if order is not None}
    changes |= {
        f"{where}.label_order": None
        for where, material in given.items()
        if material.label_order == as_they_stand and not _are_numbers(found.get(where))  # no other digest than without
    }
    return with_values(config, changes) if changes else config


def _are_numbers(found: tuple[tuple[str, ...], bool] | None) -> bool:
    return found is not None and all(name.isdecimal() for name in found[0])


def _may_name_classes(names: tuple[str, ...], data: DataConfig) -> bool:
    """Whether the names of a material's labels can be the names of the classes."""
    is_numbers = all(name.isdecimal() for name in names)
    return len(set(names)) == len(names) == data.num_classes and not is_numbers


def _names_in_store(stage: Stage, store: Store | None) -> tuple[str, ...] | None:
    """Return the names of the labels 0, 1, ... of an import; None if it is not in the store, or has no names."""
    artifact = None if store is None else store.find(stage.name, stage.digest)
    return None if artifact is None else _own_names(stage.identity["settings"], artifact.meta)


def _is_known_to_lack_names(stage: Stage, store: Store | None) -> bool:
    """Whether an import is in the store and says that its labels have no names: imports of before say nothing."""
    artifact = None if store is None else store.find(stage.name, stage.digest)
    return artifact is not None and artifact.meta.get("label_names", ()) is None


def _own_names(settings: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the labels of a material from its import, whose names are in the order of the classes."""
    names, order = meta.get("label_names"), settings.get("label_order")
    if not isinstance(names, list):
        return None
    own = names if order is None else [names[number] for number in order if number < len(names)]
    return tuple(own) if all(isinstance(name, str) for name in own) else None


def _names_of_content(material: Material, store: Store | None) -> tuple[str, ...] | None:
    """Return the names of the labels of a material that is known by its sha256 alone, from any import of it."""
    if store is None:
        return None
    for entry in store.list(on_damaged=lambda _: None):  # a damaged import of something else is none of this one
        if entry.kind == "artifact" and entry.stage == "import":
            artifact = store.find(entry.stage, entry.digest)
            settings = None if artifact is None else artifact.identity.get("settings")
            if artifact is None or not isinstance(settings, dict) or settings.get("source") != material.sha256:
                continue
            names = _own_names(settings, artifact.meta)
            if names is not None:
                return names
    return None
