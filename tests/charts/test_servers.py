"""The chart's commands as its pods run them, over a real PostgreSQL, MLflow and S3, but without containers."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.charts.rendering import CHART, NAMESPACE, case_objects, objects, one, pods, values_of
from tests.integration.postgres import USER, PostgresServer, running_postgres
from tests.integration.s3 import running_s3

pytestmark = pytest.mark.integration

READY_SECONDS = 180.0
"""Longest start of MLflow, which takes seconds, and several times that on a loaded machine."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """Run a server with the databases that the chart's own server has after its first start."""
    first_start = one(case_objects("default"), "ConfigMap", "hidfd-database")["data"]["mlflow.sql"]
    with running_postgres() as server:
        with server.connect() as connection:
            connection.execute("CREATE DATABASE hidfd")  # the image makes it: POSTGRES_DB
            connection.execute(first_start)
        yield server


def environment(container: dict[str, Any], secret: dict[str, str]) -> dict[str, str]:
    """Return the environment of a container, with the Secret's values."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "AWS_", "MLFLOW_"))}
    for variable in container["env"]:
        if "valueFrom" in variable:
            found[variable["name"]] = secret[variable["valueFrom"]["secretKeyRef"]["key"]]
        else:
            found[variable["name"]] = variable["value"]
    return found


def command(container: dict[str, Any], **places: Path | int) -> list[str]:
    """Return a container's command for this machine: its Python and MLflow, the chart's scripts, other mount paths."""
    words = [word.replace("/scripts/", f"{CHART}/files/") for word in container["command"]]
    for mount, place in places.items():
        words = [word.replace(f"/mnt/{mount}", str(place)).replace("5000", str(places["port"])) for word in words]
    programs = {"python": sys.executable, "mlflow": str(Path(sys.executable).parent / "mlflow")}
    return [programs[words[0]], *words[1:]]


def secret_of(server: PostgresServer, port: int | None = None) -> dict[str, str]:
    address = {"host": "127.0.0.1", "port": str(port or server.port)}
    return address | {"username": USER, "password": server.password, "database": "hidfd"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def ended(words: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=variables, capture_output=True, text=True, timeout=300, check=False)


@contextmanager
def running(words: list[str], variables: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        process = subprocess.Popen(words, env=variables, stdout=stream, stderr=stream, cwd=log.parent)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def status(address: str, host: str | None = None) -> int:
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def programs_below(pid: int) -> list[str]:
    """Return the command lines of all processes that a process has started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    below = {str(pid)}
    while more := {row[0] for row in rows if row[1] in below} - below:
        below |= more
    return [row[2] for row in rows if row[0] in below]


def test_mlflow_migrates_serves_its_service_s_name_and_proxies_artifacts(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    spec = pods(case_objects("default"))["Deployment/hidfd-mlflow"]["spec"]
    wait, migrate = spec["initContainers"]
    (server,) = spec["containers"]
    port, store, secret = free_port(), tmp_path / "store", secret_of(postgres)
    for container in (wait, migrate, migrate):  # a pod that starts again migrates again
        done = ended(command(container), environment(container, secret))
        assert done.returncode == 0, done.stderr
    with running(command(server, hidfd=store, port=port), environment(server, secret), tmp_path / "log") as process:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + READY_SECONDS
        while status(f"{address}/health") != 200:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.5)
        asked = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
        for host in ("hidfd-mlflow:5000", f"hidfd-mlflow.{NAMESPACE}.svc.cluster.local:5000", "localhost:5000"):
            assert status(asked, host) == 200, host
        assert status(asked, "of-a-stranger.example.org") == 403
        programs = programs_below(process.pid)
        assert any("uvicorn" in program for program in programs)
        assert not any("mlflow.server.jobs" in program for program in programs), "they take more memory than the server"
        assert status(f"{address}/health", "10.1.2.3:5000") == 200, "or kubelet's probes fail"
        put = urllib.request.Request(f"{address}/api/2.0/mlflow-artifacts/artifacts/a/b", data=b"bytes", method="PUT")
        urllib.request.urlopen(put, timeout=30).close()
        assert (store / "mlflow" / "a" / "b").read_bytes() == b"bytes"
        (test,) = pods(case_objects("default"))["Pod/hidfd-test-mlflow"]["spec"]["containers"]
        words = [word.replace("http://hidfd-mlflow:5000", address) for word in command(test)]
        done = ended(words, environment(test, secret))
        assert (done.returncode, done.stdout.count(": 200")) == (0, 2), done.stderr


def test_the_test_of_the_database_writes_into_both_and_says_which_is_missing(postgres: PostgresServer) -> None:
    (test,) = pods(case_objects("default"))["Pod/hidfd-test-database"]["spec"]["containers"]
    words = [word.replace("$(PGDATABASE)", "hidfd") for word in command(test)]
    done = ended(words, environment(test, secret_of(postgres)))
    assert (done.returncode, done.stdout.count("it takes writes")) == (0, 2), done.stderr
    words[words.index("60")] = "1"
    absent = ended([*words, "absent"], environment(test, secret_of(postgres)))
    assert absent.returncode == 1
    assert "'absent'" in absent.stderr
    assert postgres.password not in absent.stderr + absent.stdout
    nobody = ended(words, environment(test, secret_of(postgres, free_port())))
    assert nobody.returncode == 1
    assert "not reached in time" in nobody.stderr


def test_the_test_of_the_store_leaves_nothing_in_s3(tmp_path: Path) -> None:
    with running_s3(tmp_path) as server:
        values = values_of("external")
        values["storage"]["s3"] |= {"bucket": "artifacts", "endpoint": server.environment["AWS_ENDPOINT_URL"]}
        (test,) = pods(objects(values))["Pod/hidfd-test-store"]["spec"]["containers"]
        done = ended(command(test), environment(test, server.environment))
        assert done.returncode == 0, done.stderr
        assert "written, read and removed" in done.stdout
        assert not [path for path in server.bucket.rglob("*") if path.is_file()]
        wrong = server.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"}
        assert ended(command(test), environment(test, wrong)).returncode == 1


def test_the_test_of_the_store_leaves_nothing_in_a_claim(tmp_path: Path) -> None:
    (test,) = pods(case_objects("default"))["Pod/hidfd-test-store"]["spec"]["containers"]
    words = command(test, hidfd=tmp_path, port=0)
    done = ended(words, environment(test, {}))
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    shutil.rmtree(tmp_path)
    assert ended(words, environment(test, {})).returncode == 1
