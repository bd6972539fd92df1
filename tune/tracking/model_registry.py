"""Students in MLflow: logged to their run as a network that loads without this project, and registered under a name.

Every call goes through a client, so that MLflow's global state stays as it is.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hidfd.config.schema import DataConfig, TrialConfig
from hidfd.config.storage import redacted
from hidfd.errors import StoreError
from tune.errors import TrackingError
from tune.report.champion import DIGEST_TAG, Champion, description_of, tags_of
from tune.study.snapshot import StudySnapshot, TaskSnapshot

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from hidfd.store.store import Store

MODEL_TAG = "hidfd.model"
"""Tag of a run: the URI of the model that was logged to it."""

LOADING = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # so that nothing can be loaded which needs a class of this project
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Environment in which a registered student is loaded to see whether it can be."""

EXAMPLE_IMAGES = 2
"""Batch size of the example input: `torch.export` would take a batch of 1 for a constant."""

_log = logging.getLogger(__name__)


class UnloadableStudent(TrackingError):
    """A registered student does not load; it is not given the alias."""


@dataclass(frozen=True)
class Registration:
    """A version of a registered student.

    Attributes:
        version: its number, as text.
        is_new: whether this call made it.
        is_moved: whether this call moved the alias to it.
    """

    version: str
    is_new: bool
    is_moved: bool


def log_student(
    client: MlflowClient, run: str, student: TaskSnapshot, config: TrialConfig, store: Store, *, anew: bool = False
) -> LoggedModel:
    """Log a finished student as a model of its run and return the model; one that was logged before is found again.

    Args:
        client: of MLflow.
        run: id of the student's run.
        student, config: the student and its trial.
        store: holds the student and its teacher.
        anew: logs it in place of one that was logged before, which does not load.

    Raises:
        StoreError: the store does not hold them.
    """
    found = client.get_run(run)
    before = _logged(client, found.info.experiment_id, run, student.label)
    if before is None or anew:
        logged = _log_new(client, found.info.experiment_id, run, student, config, store)
    else:
        logged = before
    if before is not None and anew:
        client.delete_logged_model(before.model_id)
    uri = f"models:/{logged.model_id}"
    if found.data.tags.get(MODEL_TAG) != uri:
        client.set_tag(run, MODEL_TAG, uri)
    return logged


def register(
    client: MlflowClient,
    log: Callable[..., LoggedModel],
    champion: Champion,
    snapshot: StudySnapshot,
    name: str,
    alias: str,
) -> Registration:
    """Register the champion under a name and an alias. A student that has a version already gets no second one.

    The version is loaded before the alias is moved to it. One that does not load is logged and registered anew.

    Args:
        client: of MLflow.
        log: called with `anew=`, logs the champion's student as `log_student` does.
        champion, snapshot: of the study; tags and description of a known version are updated from them.
        name, alias: `models:/<name>@<alias>` loads the champion from now on.

    Raises:
        StoreError: the student has to be logged, and the store does not hold it.
        UnloadableStudent: what was logged just now does not load either; its version is deleted.
    """
    tags, description = tags_of(champion, snapshot), description_of(champion, snapshot, name, alias)
    model, data = log(anew=False), snapshot.trial.data
    known = [found for found in _versions(client, name) if found.tags.get(DIGEST_TAG) == champion.student.key]
    if known:
        version = max(known, key=lambda found: int(found.version))
        _update(client, version, tags, description)
    else:
        version = _new_version(client, model, name, tags, description)
    is_new = not known
    try:
        _check_loads(client, version, data, is_new=is_new)
    except UnloadableStudent as error:
        try:
            model = log(anew=True)
        except StoreError as missing:
            raise StoreError(f"{error}; it cannot be logged again: {missing}") from missing
        _log.warning("%s; it is logged again from the store", error)
        version, is_new = _new_version(client, model, name, tags, description), True
        _check_loads(client, version, data, is_new=True)
    number = str(version.version)
    is_moved = str(client.get_registered_model(name).aliases.get(alias)) != number
    if is_moved:
        client.set_registered_model_alias(name, alias, number)
    return Registration(number, is_new, is_moved)


def _logged(client: MlflowClient, experiment: str, run: str, label: str) -> LoggedModel | None:
    """Return the model of a run, if there is one. A model that a killed process left unfinished is deleted."""
    ready = None
    for model in client.search_logged_models([experiment], f"name = '{label}'"):
        if model.source_run_id != run:
            continue
        if str(model.status) == "READY":
            ready = ready or model  # the newest comes first
        else:
            client.delete_logged_model(model.model_id)
    return ready


def _log_new(
    client: MlflowClient, experiment: str, run: str, student: TaskSnapshot, config: TrialConfig, store: Store
) -> LoggedModel:
    from mlflow.entities import LoggedModelOutput

    from hidfd.export.network import deployed_student

    network = deployed_student(config, store)  # first: it fails without weights, before a model is created
    logged = client.create_logged_model(experiment, student.label, run, model_type="student")
    with tempfile.TemporaryDirectory() as folder:
        _save(network, config, f"{folder}/model", run, logged.model_id)
        client.log_model_artifacts(logged.model_id, f"{folder}/model")
    finished = client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=student.images)])
    return finished


def _save(network: object, config: TrialConfig, folder: str, run: str, model: str) -> None:
    """Save a network by `torch.export`: a graph and its weights, without pickle and without classes of this project."""
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    data = config.data
    image_shape, single = (data.channels, data.image_size_pixels, data.image_size_pixels), np.dtype(np.float32)
    signature = ModelSignature(
        Schema([TensorSpec(single, (-1, *image_shape))]),
        Schema([TensorSpec(single, (-1, data.num_classes))]),
    )
    with _without_warnings_of_mlflow():
        mlflow.pytorch.save_model(
            network,
            folder,
            mlflow_model=Model(run_id=run, model_id=model),
            signature=signature,
            input_example=np.zeros((EXAMPLE_IMAGES, *image_shape), single),
            # Without this MLflow would load the model to find out what it needs.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
            serialization_format="pt2",
        )


def _update(client: MlflowClient, version: ModelVersion, tags: dict[str, str], description: str) -> None:
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.version, key, value)
    if version.description != description:
        client.update_model_version(version.name, version.version, description)


def _check_loads(client: MlflowClient, version: ModelVersion, data: DataConfig, *, is_new: bool) -> None:
    """Load a version from the registry without pickle, so without this project, and classify one image and several.

    Args:
        client: of MLflow.
        version: registered.
        data: of the trial: the images that the student takes.
        is_new: whether the version was made just now, so that it is deleted if it does not load.

    Raises:
        UnloadableStudent: it does not load, and why.
    """
    import mlflow.artifacts
    import numpy as np

    with _without_warnings_of_mlflow():
        import mlflow.pyfunc
    try:
        with tempfile.TemporaryDirectory() as folder, _environment(LOADING):
            source = client.get_model_version_download_uri(version.name, version.version)
            copy = mlflow.artifacts.download_artifacts(source, dst_path=folder, tracking_uri=client.tracking_uri)
            network = mlflow.pyfunc.load_model(copy, suppress_warnings=True, model_config={"device": "cpu"})
            for count in (1, EXAMPLE_IMAGES + 1):
                shape = (count, data.channels, data.image_size_pixels, data.image_size_pixels)
                logits = network.predict(np.zeros(shape, np.float32))
                if logits.shape != (count, data.num_classes) or not np.isfinite(logits).all():
                    raise ValueError(f"{count} images gave {logits.shape} logits, or some that are not finite")
    except Exception as error:
        # Whatever a missing, damaged or older file makes MLflow and torch raise.
        if is_new:
            client.delete_model_version(version.name, version.version)
        words = (str(error).strip().splitlines() or ["no message"])[0]
        raise UnloadableStudent(
            f"models:/{version.name}/{version.version} does not load from {redacted(client.tracking_uri)} "
            f"({type(error).__name__}: {words})"
        ) from error


@contextmanager
def _without_warnings_of_mlflow() -> Iterator[None]:
    """Keep MLflow from warning of its own classes, as it does when it is first used to save or load."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)
        yield


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment for as long as the block lasts."""
    before = {variable: os.environ.get(variable) for variable in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return every version of a registered name, which is made where it does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found


def _new_version(
    client: MlflowClient, model: LoggedModel, name: str, tags: dict[str, str], description: str
) -> ModelVersion:
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    is_server = client.tracking_uri.startswith(("http://", "https://"))
    # Without a server MLflow would look the model up in whatever its global tracking URI names.
    source = f"models:/{model.model_id}" if is_server else model.artifact_location
    version = client.create_model_version(
        name, source, model.source_run_id, tags, description=description, model_id=model.model_id
    )
    if not is_server:  # a server adds this tag itself, by which the model's page links its versions
        linked = json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
        linked.append({"name": name, "version": version.version})
        client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(linked)})
    return version
