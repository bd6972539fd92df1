"""A study is never kept in a folder that Ray deletes after the job."""

from pathlib import Path

import pytest

from hidfd.config.storage import StorageConfig
from hidfd.errors import ConfigError
from tune.engines.ray_job import check_storage_lasts


@pytest.fixture
def job_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, as `ray job submit --working-dir .` has it."""
    folder = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_storage_in_the_working_folder_of_a_job_is_refused_all_at_once(job_folder: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        check_storage_lasts(StorageConfig())
    said = str(refused.value)
    assert said.startswith(
        f"storage.store, storage.ledger, storage.tracking, storage.results: would lie in {job_folder}"
    )
    assert "absolute paths on a file system that all nodes share" in said


def test_only_what_would_be_lost_is_named(job_folder: Path, tmp_path: Path) -> None:
    elsewhere = {
        "store": "s3://bucket/prefix",
        "tracking": "http://127.0.0.1:5000",
        "results": str(tmp_path / "results"),
    }
    with pytest.raises(ConfigError, match=r"^storage\.ledger: would lie"):
        check_storage_lasts(StorageConfig(**elsewhere))
    check_storage_lasts(StorageConfig(**elsewhere, ledger="postgresql://me@host/db"))
    check_storage_lasts(StorageConfig(**elsewhere, ledger=f"sqlite:///{tmp_path}/ledger.db"))


def test_any_other_working_folder_may_hold_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_storage_lasts(StorageConfig())
