"""The connection to MLflow: its client, a complete database, a study's experiment and runs, and errors in words.

Only this module and those beside it in the folder import MLflow.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from hidfd.addresses import SQLITE, is_text, path_at, sqlite_address
from hidfd.config.storage import redacted
from hidfd.store.locks import holders_of
from tune.errors import TrackingError
from tune.tracking.descriptions import EXPERIMENT_NOTE
from tune.tracking.moved_database import ARTIFACTS, follow_move

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

KEY_TAG, WRITTEN_TAG = "hidfd.key", "hidfd.written"
"""Tags of a run: the key of its task, and how much of the task MLflow has already."""

DELETED = "deleted"
"""Lifecycle stage of an experiment that was deleted on MLflow's pages."""

LEDGER_TAG, WHERE_TAG = "hidfd.ledger", "hidfd.ledger_place"
"""Tags of an experiment and its runs: the id of the study's ledger, and where it lies."""

NOTE_TAG = "mlflow.note.content"
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
"""Make MLflow open its pages with runs and curves, not with those for language models."""

_log = logging.getLogger(__name__)

CLIENT_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",  # standard output belongs to `--json`
    # MLflow would repeat a request whose answer was lost, and so make a run twice. A failed write is repeated as a
    # whole instead, with the next snapshot, after its runs were listed anew.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Environment of the MLflow client, where the user has not set it."""


def connect(uri: str) -> MlflowClient:
    """Return a client for a tracking URI; an SQLite database that does not exist is made, one that was moved is mended.

    Raises:
        TrackingError: the database would lie in a folder whose name is not UTF-8, or was moved and cannot be rewritten.
    """
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints the stack of what it raises
    from mlflow.tracking import MlflowClient
    from mlflow.tracking._tracking_service import utils

    # MLflow remembers by the id of a run where its artifacts lay, for as long as the process lives.
    utils._artifact_repos_cache.clear()
    database = _database_of(uri)
    if database is not None:
        if not is_text(database):
            raise TrackingError(
                f"{database}: MLflow keeps its addresses as text, and this name is not UTF-8; rename the folder, or "
                f"give another place: storage.tracking=sqlite:///PATH, or MLFLOW_TRACKING_URI"
            )
        _make_database(database)
        follow_move(database)
    # MLflow keeps what it has opened by its address, which must not depend on the folder that a process is in.
    return MlflowClient(uri if database is None else sqlite_address(database))


def experiment_of(client: MlflowClient, uri: str, study_name: str) -> Experiment:
    """Return a study's experiment, which is made where it does not exist.

    Args:
        client: of the tracking URI.
        uri: with SQLite the artifacts lie beside the database, otherwise where the server puts them.
        study_name: names the experiment.
    """
    experiment = client.get_experiment_by_name(study_name)
    if experiment is not None:
        if experiment.lifecycle_stage == DELETED:
            client.restore_experiment(experiment.experiment_id)
            _log.warning(
                "MLflow's experiment %r was deleted there, and is restored: a study writes into it. "
                "`python -m tune forget FILE` deletes a study",
                study_name,
            )
        return experiment
    database = _database_of(uri)
    artifacts = None if database is None else (database.parent / ARTIFACTS / study_name).as_uri()
    made = client.create_experiment(study_name, artifacts, {NOTE_TAG: EXPERIMENT_NOTE, KIND_TAG: KIND})
    return client.get_experiment(made)


def is_new(uri: str) -> bool:
    """Return whether a tracking URI names an SQLite file that does not exist yet."""
    database = _database_of(uri)
    return database is not None and not database.exists()


def one_run_for_each_key(client: MlflowClient, runs: Iterable[Run]) -> dict[str, Run]:
    """Return runs by the key of their task.

    A run that was made twice, because the answer to the first request was lost, is deleted once: the one with less
    content.
    """
    found: dict[str, Run] = {}
    for run in sorted(runs, key=_amount_written):
        key = run.data.tags.get(KEY_TAG)
        if key in found:
            client.delete_run(found[key].info.run_id)
        if key:
            found[key] = run
    return found


def is_refusal(error: BaseException) -> bool:
    """Return whether an error concerns the content of one run alone, so that others can be written all the same."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, ErrorCode

    if isinstance(error, MlflowException):
        return bool(error.error_code == ErrorCode.Name(INVALID_PARAMETER_VALUE))
    return type(error) in (FileNotFoundError, IsADirectoryError, PermissionError)


def reason_of(error: BaseException, uri: str = "") -> str:
    """Return why MLflow could not be written, in one line and without the password of its address.

    Args:
        error: of MLflow or below it.
        uri: of MLflow; where it names an SQLite file that is locked, the reason says by which process.
    """
    words = redacted((str(error).splitlines() or [""])[0])
    database = _database_of(uri)
    if database is not None and "database is locked" in words:
        words += f" by {holders_of(database)}"
    return f"{type(error).__name__}: {words or 'no message'}"


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn errors of MLflow and the network into one that says what to do, for verbs that cannot go on without MLflow.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, SQLAlchemyError) as error:
        raise TrackingError(
            f"{redacted(uri)}: MLflow cannot be reached, or refuses ({reason_of(error, uri)}); nothing is lost: the "
            f"same command tries again. Another server: storage.tracking=URI, or MLFLOW_TRACKING_URI"
        ) from error


def _database_of(uri: str) -> Path | None:
    """Return the SQLite file of a tracking URI; None where a server has a database of its own."""
    return path_at(uri).absolute() if uri.startswith(SQLITE) else None


def _make_database(database: Path) -> None:
    """Make MLflow's SQLite database, unless it exists: in a temporary folder first, and moved when it is complete.

    If the driver is killed while MLflow migrates a database in place, half of it stays, which MLflow cannot repair.
    """
    if database.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database.parent, prefix=".mlflow-") as folder:
        new = Path(folder) / database.name
        store = SqlAlchemyStore(  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
            sqlite_address(new), (database.parent / ARTIFACTS).as_uri()
        )
        store.engine.dispose()
        with suppress(FileExistsError):  # another study was quicker
            os.link(new, database)


def all_runs(client: MlflowClient, experiment: str) -> list[Run]:
    """Return all runs of an experiment, of whatever study."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def _amount_written(run: Run) -> tuple[bool, int, str]:
    """Return a sort key that puts the run with the least content first."""
    return WRITTEN_TAG in run.data.tags, len(run.data.metrics), run.info.run_id
