"""One MLflow database for the tests of a module, since making one takes seconds, and a study that is half done."""

import pytest

from tests.tune.snapshots import study_snapshot
from tune.study.snapshot import StudySnapshot


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    return study_snapshot(tmp_path_factory.mktemp("part"), rounds=22)
