"""Places that would not outlive a driver: `ray job submit` unpacks its working folder, and Ray deletes it again."""

from __future__ import annotations

from pathlib import Path

from hidfd.config.study_file import StorageConfig
from hidfd.errors import ConfigError

JOB_FOLDER = ("runtime_resources", "working_dir_files")
"""Where Ray unpacks `--working-dir`, below the folder of its session."""

SQLITE = "sqlite:///"


def check_lasts(storage: StorageConfig) -> None:
    """Refuse to leave a study in the working folder of a Ray job.

    Args:
        storage: of a study file; relative paths count from the working folder.

    Raises:
        ConfigError: a resubmitted job would find nothing of it; names every such place.
    """
    places = {name: _folder_of_job(place) for name, place in storage.model_dump().items()}
    lost = {name: folder for name, folder in places.items() if folder is not None}
    if lost:
        raise ConfigError(
            f"{', '.join(f'storage.{name}' for name in lost)}: would lie in {next(iter(lost.values()))}, which Ray "
            f"deletes after the job, and the study with it; give absolute paths on a file system that all nodes share, "
            f"or s3://BUCKET/PREFIX for the store, postgresql://... for the ledger and an MLflow server for tracking"
        )


def _folder_of_job(place: str) -> Path | None:
    if "://" in place and not place.startswith(SQLITE):
        return None
    path = Path(place.removeprefix(SQLITE)).expanduser().absolute()
    inside = (folder for folder in path.parents if folder.parts[-3:-1] == JOB_FOLDER)
    return next(inside, None)
