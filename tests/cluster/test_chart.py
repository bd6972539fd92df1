"""The chart in a real cluster: installed, upgraded and deleted by both Helms, its rights tried both ways."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.preflight.access import NEEDED
from tests.charts.rendering import CASES, CHART, case_objects
from tests.cluster.api_client import ApiError
from tests.cluster.local_cluster import LocalCluster, restrict
from tests.cluster.submitted_study import submitted_study
from tests.cluster.tools import need_helm

SMALL = {
    "image": {"digest": "sha256:" + "0" * 64},
    "storage": {"claim": {"size": "1Gi"}},
    "rayCluster": {"enabled": True, "workerGroups": {"cpu": {"cpus": "1", "memory": "4Gi"}}},
    "mlflow": {"cpus": "100m"},
    "database": {"cpus": "100m"},
    "submitter": {
        "subjects": [{"kind": "User", "name": "developer", "apiGroup": "rbac.authorization.k8s.io"}],
        "secrets": ["registry"],
    },
}

PATHS = {
    "ClusterRole": "apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "ConfigMap": "api/v1/namespaces/{}/configmaps",
    "Deployment": "apis/apps/v1/namespaces/{}/deployments",
    "NetworkPolicy": "apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PersistentVolumeClaim": "api/v1/namespaces/{}/persistentvolumeclaims",
    "Pod": "api/v1/namespaces/{}/pods",
    "PodDisruptionBudget": "apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "RayCluster": "apis/ray.io/v1/namespaces/{}/rayclusters",
    "Role": "apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Secret": "api/v1/namespaces/{}/secrets",
    "Service": "api/v1/namespaces/{}/services",
    "ServiceAccount": "api/v1/namespaces/{}/serviceaccounts",
    "StatefulSet": "apis/apps/v1/namespaces/{}/statefulsets",
}
"""Every kind that the chart makes except PodMonitors, whose definition is not KubeRay's."""


class Release:
    """Helm over one release, `hidfd`, in a `restricted` namespace."""

    def __init__(self, cluster: LocalCluster, namespace: str, folder: Path, program: Path) -> None:
        self.cluster, self.namespace = cluster, namespace
        self._folder, self._program = folder, program
        restrict(cluster, namespace)

    def helm(self, verb: str, *words: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a verb of Helm over the release, with values."""
        command = [str(self._program), verb, "hidfd", *words, "--namespace", self.namespace]
        if values is not None:
            (self._folder / "values.yaml").write_text(yaml.safe_dump(values))
            command += [str(CHART), "--values", str(self._folder / "values.yaml")]
        kubeconfig = ["--kubeconfig", str(self.cluster.kubeconfig())]
        return subprocess.run([*command, *kubeconfig], capture_output=True, text=True, check=False, timeout=300)

    def names(self, kind: str) -> set[str]:
        """Return the names of the release's objects of a kind."""
        path = f"/{PATHS[kind].format(self.namespace)}"
        found = self.cluster.request("GET", f"{path}?labelSelector=app.kubernetes.io/instance=hidfd")["items"]
        return {item["metadata"]["name"] for item in found}


@pytest.fixture(params=[3, 4])
def release(request: pytest.FixtureRequest, cluster: LocalCluster, namespace: str, tmp_path: Path) -> Iterator[Release]:
    made = Release(cluster, namespace, tmp_path, need_helm(request.param))
    yield made
    made.helm("uninstall")  # else its controllers would replace the pods that are deleted with the namespace


def test_release_is_installed_upgraded_and_taken_away_but_for_what_it_promises_to_keep(release: Release) -> None:
    installed = release.helm("install", values=SMALL)
    assert installed.returncode == 0, installed.stderr
    assert "python -m k8s submit" in installed.stdout, "its notes"
    admitted = {"hidfd-database-0", "hidfd-mlflow"}

    def pods() -> set[str]:
        found = release.cluster.request("GET", f"/api/v1/namespaces/{release.namespace}/pods")["items"]
        names = {pod["metadata"]["name"] for pod in found}
        return {wanted for wanted in admitted if any(name.startswith(wanted) for name in names)}

    release.cluster.wait("pods that a restricted namespace admits", lambda: pods() == admitted)
    heads = "ray.io/node-type=head"
    path = f"/api/v1/namespaces/{release.namespace}/pods?labelSelector={heads}"
    release.cluster.wait("Ray's head", lambda: bool(release.cluster.request("GET", path)["items"]))

    upgraded = release.helm("upgrade", values=SMALL | {"mlflow": {"cpus": "100m", "numWorkers": 1}})
    assert upgraded.returncode == 0, upgraded.stderr
    assert "REVISION: 2" in upgraded.stdout
    refused = release.helm("upgrade", values=SMALL | {"database": {"cpus": "100m", "image": {"tag": "18.0"}}})
    assert refused.returncode != 0
    assert "pg_dumpall" in refused.stderr, "the refusal tells how to migrate"
    refused = release.helm("upgrade", values=SMALL | {"database": {"cpus": "100m", "size": "20Gi"}})
    assert refused.returncode != 0
    assert "20Gi" in refused.stderr

    password = release.cluster.request("GET", f"/api/v1/namespaces/{release.namespace}/secrets/hidfd-database")["data"]
    assert release.helm("uninstall").returncode == 0
    left = {kind: names for kind in PATHS if (names := _left(release, kind))}
    claims = {"hidfd-store", "data-hidfd-database-0"}
    assert left == {"PersistentVolumeClaim": claims, "Secret": {"hidfd-database"}}
    assert release.helm("install", values=SMALL).returncode == 0
    again = release.cluster.request("GET", f"/api/v1/namespaces/{release.namespace}/secrets/hidfd-database")["data"]
    assert again == password, "else the claim's database could not be opened any more"


def _left(release: Release, kind: str) -> set[str]:
    """Wait until the controllers have deleted the objects of the release, its pods among them."""
    if kind == "Pod":
        return set()
    return release.names(kind)


@pytest.mark.parametrize("case", CASES)
def test_every_object_of_every_values_file_is_taken_by_a_real_server(
    cluster: LocalCluster, namespace: str, case: str
) -> None:
    """Try the objects on the server, which refuses unknown fields and checks KubeRay's rules."""
    things = [thing for thing in case_objects(case) if thing["kind"] != "PodMonitor"]
    for thing in sorted(things, key=lambda thing: thing["kind"] != "ServiceAccount"):
        path = PATHS[thing["kind"]].format(namespace)
        body = {**thing, "metadata": {**thing["metadata"], "namespace": namespace}}
        if "{}" not in PATHS[thing["kind"]]:
            del body["metadata"]["namespace"]
        dry = "" if thing["kind"] == "ServiceAccount" else "&dryRun=All"  # which pods need
        try:
            cluster.request("POST", f"/{path}?fieldValidation=Strict{dry}", body)
        except ApiError as error:
            pytest.fail(f"{thing['kind']} {thing['metadata']['name']}: {error}")


def may(cluster: LocalCluster, namespace: str, user: str, verb: str, group: str, resource: str, sub: str = "") -> bool:
    """Whether the real server would let a user send a request."""
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": attributes},
    }
    answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


FORBIDDEN = (
    ("create", "", "pods"),
    ("list", "", "secrets"),
    ("create", "", "secrets"),
    ("create", "apps", "deployments"),
    ("delete", "ray.io", "rayclusters"),
    ("patch", "ray.io", "rayjobs"),
    ("list", "", "services"),
    ("delete", "", "persistentvolumeclaims"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
)
"""Requests that nobody needs."""


def test_every_account_may_do_what_it_must_and_nothing_more(release: Release, tmp_path: Path) -> None:
    assert release.helm("install", values=SMALL).returncode == 0
    cluster, namespace = release.cluster, release.namespace
    cluster.wait("the rights", lambda: may(cluster, namespace, "developer", "create", "ray.io", "rayjobs"), 60.0)
    assert [rights for rights in NEEDED if not may(cluster, namespace, "developer", *rights)] == []
    assert [rights for rights in FORBIDDEN if may(cluster, namespace, "developer", *rights)] == []
    for part in ("driver", "worker", "mlflow", "database"):
        account = f"system:serviceaccount:{namespace}:hidfd-{part}"
        allowed = [rights for rights in (*NEEDED, *FORBIDDEN) if may(cluster, namespace, account, *rights)]
        assert allowed == [], f"hidfd-{part} asks the API server for nothing"

    folder = tmp_path / "study"
    folder.mkdir()
    study = submitted_study(cluster, namespace, folder)
    accounts = ["cluster.driver_service_account=hidfd-driver", "cluster.worker_service_account=hidfd-worker"]
    submitted = study.run("submit", *accounts, user="developer")
    assert submitted.code == 0, submitted.stderr
    deleted = study.run("delete", user="developer")
    assert deleted.code == 0, deleted.stderr
