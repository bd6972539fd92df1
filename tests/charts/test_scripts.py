"""The scripts of `helm test` fail for the faults that they check for."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.charts.rendering import CHART, case_objects, one, pods


@contextmanager
def answering(statuses: dict[str, int]) -> Iterator[str]:
    """Run a server that answers each path with its status and any other with 200; yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path.partition("?")[0], 200))
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, CHART / "files" / script, *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [({}, 0), ({"/health": 503}, 1), ({"/api/2.0/mlflow/experiments/search": 403}, 1)],
)
def test_mlflow_has_to_be_well_and_to_take_its_service_s_name(statuses: dict[str, int], code: int) -> None:
    with answering(statuses) as address:
        assert run("mlflow_answers.py", address).returncode == code


CRD = """
import io, json, runpy, sys, urllib.error, urllib.request, ssl
from pathlib import Path

versions = json.loads(sys.argv[1])

def urlopen(request, context, timeout):
    assert request.headers["Authorization"] == "Bearer word"
    name = request.full_url.rpartition("/")[2]
    if name not in versions:
        raise urllib.error.HTTPError(request.full_url, 404, "Not Found", {}, None)
    return io.StringIO(json.dumps({"spec": {"versions": versions[name]}}))

urllib.request.urlopen = urlopen
ssl.create_default_context = lambda cafile: None
Path.read_text = lambda self: "word"
runpy.run_path(sys.argv[2])
"""


@pytest.mark.parametrize(
    ("served", "words"),
    [
        ({"rayclusters.ray.io": True, "rayjobs.ray.io": True}, None),
        ({"rayclusters.ray.io": True}, "rayjobs.ray.io: HTTP Error 404: Not Found; is KubeRay's operator installed?"),
        ({"rayclusters.ray.io": False}, "rayclusters.ray.io: v1 is not served; KubeRay is too old"),
    ],
)
def test_crds_have_to_be_there_in_version_1(served: dict[str, bool], words: str | None) -> None:
    versions = {name: [{"name": "v1", "served": is_served}] for name, is_served in served.items()}
    script = str(CHART / "files" / "custom_resources.py")
    done = subprocess.run(
        [sys.executable, "-c", CRD, json.dumps(versions), script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) is (words is None), done.stderr
    assert (words or "") in done.stderr


def test_pods_find_every_script_that_they_run() -> None:
    found = case_objects("everything")
    scripts = one(found, "ConfigMap", "hidfd-scripts")["data"]
    assert scripts == {path.name: path.read_text() for path in (CHART / "files").glob("*.py")}
    run_by = {word for word in yaml.safe_dump(pods(found)).split() if word.startswith("/scripts/")}
    assert {Path(word).name for word in run_by} == set(scripts)


def test_helm_tests_are_hooks_that_go_when_they_have_passed() -> None:
    found = {item["metadata"]["name"]: item for item in case_objects("everything") if item["kind"] == "Pod"}
    assert set(found) == {f"hidfd-test-{name}" for name in ("mlflow", "database", "store", "custom-resources")}
    for pod in found.values():
        annotations = pod["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "test"
        assert "hook-succeeded" in annotations["helm.sh/hook-delete-policy"]
        assert pod["spec"]["restartPolicy"] == "Never"
    assert {item["metadata"]["name"] for item in case_objects("minimal") if item["kind"] == "Pod"} == {
        "hidfd-test-store"
    }
