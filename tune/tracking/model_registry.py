"""Students in MLflow: logged to their run as a network that loads without this project, and registered under a name.

Every call goes through a client, so that MLflow's global state stays as it is.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hidfd.config.schema import TrialConfig
from tune.report.champion import DIGEST_TAG, Champion, description_of, tags_of
from tune.study.snapshot import StudySnapshot, TaskSnapshot

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from hidfd.store.store import Store

MODEL_TAG = "hidfd.model"
"""Tag of a run: the URI of the model that was logged to it."""

EXAMPLE_IMAGES = 2
"""Batch size of the example input: `torch.export` would take a batch of 1 for a constant."""


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
    client: MlflowClient, run: str, student: TaskSnapshot, config: TrialConfig, store: Store
) -> LoggedModel:
    """Log a finished student as a model of its run and return the model; one that was logged before is found again.

    Args:
        client: of MLflow.
        run: id of the student's run.
        student, config: the student and its trial.
        store: holds the student and its teacher.

    Raises:
        StoreError: the store does not hold them.
    """
    found = client.get_run(run)
    logged = _logged(client, found.info.experiment_id, run, student.label)
    if logged is None:
        logged = _log(client, found.info.experiment_id, run, student, config, store)
    uri = f"models:/{logged.model_id}"
    if found.data.tags.get(MODEL_TAG) != uri:
        client.set_tag(run, MODEL_TAG, uri)
    return logged


def register(
    client: MlflowClient, model: LoggedModel, champion: Champion, snapshot: StudySnapshot, name: str, alias: str
) -> Registration:
    """Register the champion under a name and an alias. A student that has a version already gets no second one.

    Args:
        client: of MLflow.
        model: as returned by `log_student`.
        champion, snapshot: of the study; tags and description of a known version are updated from them.
        name, alias: `models:/<name>@<alias>` loads the champion from now on.
    """
    tags, description = tags_of(champion, snapshot), description_of(champion, snapshot, name, alias)
    versions = _versions(client, name)
    known = [version for version in versions if version.tags.get(DIGEST_TAG) == champion.student.key]
    if known:
        version = max(known, key=lambda found: int(found.version))
        for key, value in tags.items():
            if version.tags.get(key) != value:
                client.set_model_version_tag(name, version.version, key, value)
        if version.description != description:
            client.update_model_version(name, version.version, description)
    else:
        version = _new_version(client, model, name, tags, description)
    number = str(version.version)
    is_moved = str(client.get_registered_model(name).aliases.get(alias)) != number
    if is_moved:
        client.set_registered_model_alias(name, alias, number)
    return Registration(number, not known, is_moved)


def _logged(client: MlflowClient, experiment: str, run: str, label: str) -> LoggedModel | None:
    """Return the model of a run, if there is one. A model that a killed process left unfinished is deleted."""
    ready = None
    for model in client.search_logged_models([experiment], f"name = '{label}'"):
        if model.source_run_id != run:
            continue
        if str(model.status) == "READY":
            ready = model
        else:
            client.delete_logged_model(model.model_id)
    return ready


def _log(
    client: MlflowClient, experiment: str, run: str, student: TaskSnapshot, config: TrialConfig, store: Store
) -> LoggedModel:
    from mlflow.entities import LoggedModelOutput

    from hidfd.export import deployed_student

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
        Schema([TensorSpec(single, (-1, *image_shape), "image_unit")]),
        Schema([TensorSpec(single, (-1, data.num_classes), "logits")]),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)  # MLflow warns of its own classes
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
