"""A study whose store is a real S3 server that refuses, or has gone; and a secret key that no message shows."""

from collections.abc import Iterator

import pytest

from tests.integration.conftest import Workplace, tiny_study
from tests.integration.s3 import S3Server, running_s3

pytestmark = pytest.mark.integration

STORE = 4

SHARED = "s3://artifacts/team"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def study(tiny: Workplace) -> Workplace:
    """Two students, and the better one beside the real-only control."""
    tree = tiny_study()
    tree["storage"] = {"store": SHARED}
    tree["study"] = {"num_students": 2, "concurrency": 2, "controls": {"plain_kd": False, "synthetic_only": False}}
    tree["search"] = {"distillation.inflation": {"type": "float", "low": 1, "high": 10}}
    tiny.write(tree)
    return tiny


def test_store_that_cannot_be_reached_or_refuses_is_one_clear_message(server: S3Server, study: Workplace) -> None:
    refused = study.run("tune", "run", "study.yaml", AWS_SECRET_ACCESS_KEY="wrong")
    missing = study.run("tune", "run", "study.yaml", "storage.store=s3://elsewhere/team")
    server.stop()
    away = study.run("tune", "run", "study.yaml")
    for done, words in ((refused, SHARED), (missing, "s3://elsewhere/team"), (away, SHARED)):
        assert done.returncode == STORE, done.stdout + done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert server.secret not in done.stdout + done.stderr
