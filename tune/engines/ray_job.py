"""A check for studies submitted by `ray job submit`, which runs them in a folder that Ray deletes after the job."""

from __future__ import annotations

from pathlib import Path

from hidfd.addresses import SQLITE, path_at
from hidfd.config.storage import StorageConfig
from hidfd.errors import ConfigError

JOB_FOLDER = ("runtime_resources", "working_dir_files")
"""Folders below that of Ray's session, in which Ray unpacks `--working-dir`."""


def check_storage_lasts(storage: StorageConfig) -> None:
    """Refuse to keep a study in the working folder of a Ray job, where a resubmitted job would find nothing of it.

    Args:
        storage: of a study file; relative paths count from the working folder.

    Raises:
        ConfigError: naming every setting that points there.
    """
    folders = {name: _folder_of_job(address) for name, address in storage.model_dump().items()}
    lost = {name: folder for name, folder in folders.items() if folder is not None}
    if lost:
        raise ConfigError(
            f"{', '.join(f'storage.{name}' for name in lost)}: would lie in {next(iter(lost.values()))}, which Ray "
            f"deletes after the job, and the study with it; give absolute paths on a file system that all nodes share, "
            f"or s3://BUCKET/PREFIX for the store, postgresql://... for the ledger and an MLflow server for tracking"
        )


def _folder_of_job(address: str) -> Path | None:
    if "://" in address and not address.startswith(SQLITE):
        return None
    path = path_at(address).absolute()
    inside = (folder for folder in path.parents if folder.parts[-3:-1] == JOB_FOLDER)
    return next(inside, None)
