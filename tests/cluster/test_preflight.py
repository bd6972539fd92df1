"""Preflight and submit against a real API server, which knows, allows, admits and refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.preflight.access import NEEDED
from tests.cluster.local_cluster import LocalCluster
from tests.cluster.submitted_study import SubmittedStudy, submitted_study


@pytest.fixture
def study(cluster: LocalCluster, namespace: str, tmp_path: Path) -> SubmittedStudy:
    return submitted_study(cluster, namespace, tmp_path)


def post(study: SubmittedStudy, kind: str, body: dict[str, Any], group: str = "api/v1") -> None:
    study.cluster.request("POST", f"/{group}/namespaces/{study.namespace}/{kind}", body)


def test_everything_is_found_and_pods_are_admitted_by_the_restricted_profile(study: SubmittedStudy) -> None:
    found = study.run("preflight", "--json")
    assert found.code == 0, found.stdout
    checks = {check["name"]: check for check in yaml.safe_load(found.stdout)}
    assert checks["API server"]["found"].startswith("Kubernetes v1.36")
    assert "level restricted; the server would admit the pods" in checks["pod security"]["found"]
    assert checks["permissions"]["verdict"] == "pass"
    assert checks["nodes for cpu"]["verdict"] == "pass"


def test_dry_run_of_the_server_validates_against_kuberays_definitions_and_makes_nothing(study: SubmittedStudy) -> None:
    done = study.run("submit", "--dry-run=server")
    assert done.code == 0, done.stderr
    _, job = yaml.safe_load_all(done.stdout)
    assert job["metadata"]["uid"]
    assert study.cluster.request("GET", f"/apis/ray.io/v1/namespaces/{study.namespace}/rayjobs")["items"] == []


@pytest.mark.parametrize(
    "cluster_section",
    [
        "cluster.workers={gpu: {count: 0, max_count: 4, gpus: 2, spot: true, shared_memory: 2Gi}}",
        "cluster.workers={}",
        "cluster.queue=research",
        "cluster.priority_class=system-cluster-critical",
        "cluster.deadline_hours=0.5",
        "cluster.token=false",
        "cluster.driver={cpus: 2, tolerations: [{operator: Exists}], node_selector: {a: b}}",
    ],
)
def test_every_way_to_ask_is_valid_to_kuberay(study: SubmittedStudy, cluster_section: str) -> None:
    done = study.run("submit", "--dry-run=server", "--no-preflight", cluster_section)
    assert done.code == 0, done.stderr


def test_account_without_rights_is_told_what_it_may_not_do(study: SubmittedStudy) -> None:
    done = study.run("submit", user="developer")
    assert done.code == 14
    assert "permissions: developer may not create rayjobs of ray.io, get rayjobs of ray.io" in done.stderr
    assert study.run("submit", "--no-preflight", user="developer").code == 13


def test_account_with_exactly_the_rights_that_preflight_names_can_do_everything(study: SubmittedStudy) -> None:
    rules = [
        {"apiGroups": [group], "resources": [f"{resource}/{sub}" if sub else resource], "verbs": [verb]}
        for verb, group, resource, sub in NEEDED
    ]
    rbac = "apis/rbac.authorization.k8s.io/v1"
    post(study, "roles", {"metadata": {"name": "submitter"}, "rules": rules}, rbac)
    subject = {"kind": "User", "name": "developer", "apiGroup": "rbac.authorization.k8s.io"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "submitter"}
    post(study, "rolebindings", {"metadata": {"name": "s"}, "roleRef": role, "subjects": [subject]}, rbac)
    study.cluster.wait("the rights", lambda: study.run("preflight", user="developer").code == 0, 30.0)
    found = study.run("preflight", user="developer")
    assert "may not be" in found.stdout, "what it may not look at is a warning"
    assert study.run("submit", user="developer").code == 0
    deleted = study.run("delete", user="developer")
    assert deleted.code == 0, deleted.stderr


def test_full_quota_is_seen_before_anything_starts(study: SubmittedStudy) -> None:
    post(study, "resourcequotas", {"metadata": {"name": "team"}, "spec": {"hard": {"requests.cpu": "2", "pods": "9"}}})
    path = f"/api/v1/namespaces/{study.namespace}/resourcequotas/team"
    study.cluster.wait("the quota", lambda: "hard" in study.cluster.request("GET", path)["status"])
    done = study.run("submit")
    assert done.code == 14
    assert "quota: will not suffice: team: requests.cpu: 2 of 2 left, 2.5 needed" in done.stderr


def test_namespace_that_does_not_exist_is_named(study: SubmittedStudy) -> None:
    done = study.run("submit", "cluster.namespace=nowhere")
    assert done.code == 14
    assert "namespace: nowhere does not exist" in done.stderr
    unlooked = study.run("submit", "cluster.namespace=nowhere", "--no-preflight")
    assert unlooked.code == 13
    assert 'namespaces "nowhere" not found' in unlooked.stderr


def test_more_gpus_than_any_node_has_are_refused(study: SubmittedStudy) -> None:
    done = study.run("submit", "cluster.workers.cpu.gpus=1")
    assert done.code == 14
    assert "nodes for cpu: none has 1 cpu, 2Gi memory, 1 nvidia.com/gpu" in done.stderr


def test_token_that_nobody_knows_is_said_to_be_refused(study: SubmittedStudy) -> None:
    expired = study.folder / "expired.kubeconfig"
    expired.write_text(re.sub(r'("token": *)"[^"]*"', r'\1"expired"', study.cluster.kubeconfig().read_text()))
    done = study.run("preflight", kubeconfig=expired)
    assert done.code == 13
    assert "answers 401" in done.stderr
