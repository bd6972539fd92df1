"""`python -m k8s`, as a person types it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.__main__ import main
from tests.k8s.api_server import ApiServer
from tests.k8s.conftest import JOBS, NAMESPACED
from tests.k8s.study_files import tree


def kubeconfig(cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> str:
    """Return a kubeconfig of a server that does not exist."""
    where = {"server": "http://127.0.0.1:1"} | (cluster or {})
    document = {
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": where}],
        "users": [{"name": "test", "user": user or {"token": "a-token"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    return json.dumps(document)


EXPIRED = ".".join(["e30", base64.urlsafe_b64encode(b'{"exp": 1}').decode().rstrip("="), "x"])

AWAY = {
    "name": "oidc",
    "config": {"id-token": EXPIRED, "refresh-token": "x", "idp-issuer-url": "http://127.0.0.1:1", "client-id": "x"},
}
"""A user whose server for tokens does not answer."""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree()))
    monkeypatch.chdir(tmp_path)
    return "study.yaml"


def test_dry_run_needs_no_cluster_and_prints_what_kubectl_takes(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert main(["submit", file, "--dry-run", "cluster.retries=1"]) == 0
    config_map, job = yaml.safe_load_all(capsys.readouterr().out)
    assert (config_map["kind"], job["kind"]) == ("ConfigMap", "RayJob")
    assert yaml.safe_load(config_map["data"]["study.yaml"]) == tree()
    assert job["spec"]["backoffLimit"] == 1
    assert main(["submit", file, "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 2
    assert main(["submit", file, "--dry-run", "trial.data.candidates={path: photos}"]) == 0
    assert "no sha256, so no pod would find it: trial.data.candidates" in capsys.readouterr().err


def test_dry_run_of_the_server_makes_nothing(file: str, server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", file, "--dry-run=server"]) == 0
    assert "uid: uid-fashion-students-" in capsys.readouterr().out
    assert len([path for method, path in server.asked if method == "POST" and path.startswith(JOBS)]) == 1
    assert not [path for path in server.objects if path.startswith(JOBS)]


def test_each_verb_names_the_next(file: str, server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", file]) == 0
    shown = capsys.readouterr().out
    assert "level restricted; the server would admit the pods, which keep `restricted`" in shown, "on one line"
    assert "next: python -m k8s submit study.yaml" in shown
    assert main(["submit", file, "--context", "test"]) == 0
    shown = capsys.readouterr().out
    assert "submitted as fashion-students-" in shown
    assert "next: python -m k8s watch study.yaml --context test" in shown
    (job,) = (thing for path, thing in server.objects.items() if path.startswith(JOBS))
    assert main(["submit", file]) == 0
    assert "was submitted before: New" in capsys.readouterr().out
    job["status"] = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "DeadlineExceeded"}
    assert main(["submit", file]) == 15
    shown = capsys.readouterr().err
    assert "has ended: Failed: cluster.deadline_hours is over" in shown
    assert "python -m k8s delete study.yaml, then submit again" in shown
    job["status"] = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    assert main(["submit", file]) == 0
    assert "all that was asked for is done" in capsys.readouterr().out
    assert main(["watch", file]) == 0
    assert "has succeeded" in capsys.readouterr().out
    assert main(["delete", file]) == 0
    assert "ledger, store and MLflow keep what the study has found" in capsys.readouterr().out
    assert main(["delete", file, "--purge", "--wait", "0"]) == 13
    assert "has not ended yet; it goes on by itself" in capsys.readouterr().err


def test_preflight_prints_its_findings_as_json(
    file: str, server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    del server.objects[f"{NAMESPACED}/secrets/s3"]
    assert main(["preflight", file, "--json"]) == 14
    checks, error = map(json.loads, capsys.readouterr().out.splitlines())
    assert {"name": "API server", "verdict": "pass", "found": "Kubernetes v1.36.3", "todo": None} in checks
    assert {check["verdict"] for check in checks} == {"pass", "warn", "fail"}
    assert error["exit_code"] == 14


def test_failed_preflight_starts_nothing_and_ends_with_14(
    file: str, server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    del server.objects[f"{NAMESPACED}/secrets/s3"]
    assert main(["submit", file]) == 14
    assert "secret s3: does not exist" in capsys.readouterr().err
    assert not [path for path in server.objects if path.startswith(JOBS)]
    assert main(["submit", file, "--no-preflight"]) == 0


def test_quota_that_the_studys_own_pods_use_is_nothing_against_it(
    file: str, server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    quota = server.put(f"{NAMESPACED}/resourcequotas/team", status={"hard": {"pods": "3"}, "used": {"pods": "0"}})
    assert main(["submit", file]) == 0
    quota["status"]["used"]["pods"] = "3"
    assert main(["submit", file]) == 0
    assert "was submitted before" in capsys.readouterr().out
    assert main(["submit", file, "study.num_students=99"]) == 13
    assert "is run by the job fashion-students-" in capsys.readouterr().err
    (job,) = (thing for path, thing in server.objects.items() if path.startswith(JOBS))
    job["status"] = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    assert main(["submit", file, "study.num_students=99"]) == 14


def test_watch_prints_a_json_line_for_each_change(
    file: str, server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["submit", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"] is True
    (job,) = (thing for path, thing in server.objects.items() if path.startswith(JOBS))
    job["status"] = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(["watch", file, "--json"]) == 15
    view, error = map(json.loads, capsys.readouterr().out.splitlines())
    assert (view["deployment_status"], view["ended"], view["succeeded"]) == ("Failed", True, False)
    assert error["exit_code"] == 15


def test_study_without_a_job_is_16_with_the_command_that_starts_it(
    file: str, server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", file]) == 16
    assert "start it with: python -m k8s submit study.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no usable kubeconfig"),
        ("{}", "no usable kubeconfig"),
        ("not: [a", "no usable kubeconfig"),
        (kubeconfig(cluster={"proxy-url": "ftp://127.0.0.1"}), "unsupported scheme ftp"),
        (kubeconfig(user={"auth-provider": AWAY}), "port=1): Failed to establish a new connection"),
    ],
)
def test_kubeconfig_that_cannot_be_used_is_one_message(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", "config")
    if content is not None:
        Path("config").write_text(content)
    assert main(["preflight", file]) == 13
    assert says in capsys.readouterr().err


def test_context_that_is_not_there_is_one_message(
    file: str, server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preflight", file, "--context", "prod"]) == 13
    assert "pick a context with --context" in capsys.readouterr().err


def test_kubeconfig_that_points_nowhere_says_where(
    file: str, server: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.url = "http://127.0.0.1:1"
    server.kubeconfig(tmp_path)
    assert main(["preflight", file]) == 13
    shown = capsys.readouterr().err
    assert "http://127.0.0.1:1: no answer from the API server" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("answer", [{"hello": "world"}, ["hello"], "hello"])
def test_what_answers_but_is_no_api_server_is_said_to_be_none(
    file: str, server: ApiServer, capsys: pytest.CaptureFixture[str], answer: Any
) -> None:
    server.objects["/version"] = answer
    assert main(["preflight", file]) == 13
    assert "so this is no API server" in capsys.readouterr().err


def test_expired_credentials_are_said_to_be(file: str, server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults = [401] * 3
    assert main(["watch", file]) == 13
    assert "answers 401" in capsys.readouterr().err


def test_misspelt_verb_and_option_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in ((["submitt", "x"], "did you mean submit?"), (["watch", "x", "--log"], "did you mean --logs?")):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert says in capsys.readouterr().err
