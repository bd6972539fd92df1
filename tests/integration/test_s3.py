"""A study whose store is a real S3 server: killed, resumed, listed; and a secret key that is not shown anywhere."""

import json
import signal
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Workplace, tiny_study
from tests.integration.s3 import S3Server
from tests.integration.test_study import results, started

pytestmark = pytest.mark.integration

STORE = 4

SHARED = "s3://artifacts/team"


@pytest.fixture
def study(tiny: Workplace) -> Workplace:
    """A study of two students, and the better one beside the real-only control."""
    tree = tiny_study()
    tree["storage"] = {"store": SHARED}
    tree["study"] = {"num_students": 2, "concurrency": 2, "controls": {"plain_kd": False, "synthetic_only": False}}
    tree["search"] = {"distillation.inflation": {"type": "float", "low": 1, "high": 10}}
    tiny.write(tree)
    return tiny


def check_hidden(secret: str, said: list[str], *folders: Path) -> None:
    """Check that a secret is in no output and in no file: ledger, MLflow's database and artifacts, pages, manifests."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert {"ledger.db", "mlflow.db", "report.html", "manifest.json"} <= {path.name for path in files}
    shown = [path for path in files if secret.encode() in path.read_bytes()]
    assert not shown
    assert not any(secret in text for text in said)


def test_study_killed_over_s3_goes_on_with_what_was_built(s3_server: S3Server, study: Workplace) -> None:
    killed = started(study, "run", "study.yaml")
    until = time.monotonic() + 240
    while not list(s3_server.bucket.glob("team/collection/*/manifest.json")):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    out, err = killed.communicate()

    done = study.run_process("tune", "run", "study.yaml")
    assert done.returncode == 0, done.stderr
    found = results(study)
    assert found["finished"]
    snapshot = json.loads(study.run("tune", "status", "study.yaml", "--json").stdout)
    (collection,) = (task for task in snapshot["works"] if task["label"] == "collection-0")
    assert [attempt["end"] for attempt in collection["attempts"]].count("finished") == 1

    listed = study.run("hidfd", "store", "list", "--store", SHARED)
    assert listed.returncode == 0, listed.stderr
    assert {"teacher", "collection", "generation", "distillation"} <= set(listed.stdout.split()), listed.stdout
    assert not (study.folder / ".hidfd" / "store").exists()
    again = study.run("tune", "run", "study.yaml", "--engine", "local")
    assert "nothing was run" in again.stdout, again.stdout + again.stderr

    said = [out, err, *(text for ran in (done, listed, again) for text in (ran.stdout, ran.stderr))]
    check_hidden(s3_server.secret, said, study.folder, s3_server.bucket)


def test_store_that_cannot_be_reached_or_refuses_is_one_clear_message(s3_server: S3Server, study: Workplace) -> None:
    refused = study.run("tune", "run", "study.yaml", AWS_SECRET_ACCESS_KEY="wrong")
    missing = study.run("tune", "run", "study.yaml", "storage.store=s3://elsewhere/team")
    s3_server.stop()
    away = study.run("tune", "run", "study.yaml")
    for done, words in ((refused, SHARED), (missing, "s3://elsewhere/team"), (away, SHARED)):
        assert done.returncode == STORE, done.stdout + done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert s3_server.secret not in done.stdout + done.stderr
