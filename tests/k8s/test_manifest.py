"""The manifests of a request: golden files, and rules that every pod keeps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from k8s.manifest import RAY_VERSION, Manifests, render
from tests.charts.pod_security import kuberay_pods, violations
from tests.k8s.study_files import EVERYTHING, SMALLEST, request

GOLDEN = Path(__file__).parent / "golden"
CHART = Path(__file__).parents[2] / "charts" / "hidfd"

CLUSTERS = {"smallest": SMALLEST, "everything": EVERYTHING}

VERSIONS = [f"1.{minor}" for minor in range(28, 37)]


def pods(manifests: Manifests) -> dict[str, dict[str, Any]]:
    """Return spec and metadata of every pod, by its group."""
    spec = manifests.ray_job["spec"]
    cluster = spec["rayClusterSpec"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"submitter": spec["submitterPodTemplate"], "head": cluster["headGroupSpec"]["template"], **workers}


@pytest.fixture(params=CLUSTERS)
def manifests(request: pytest.FixtureRequest, tmp_path: Path) -> Manifests:
    return of(tmp_path, request.param)


def of(folder: Path, name: str) -> Manifests:
    return render(request(folder, CLUSTERS[name]))


@pytest.mark.parametrize("name", CLUSTERS)
def test_manifests_are_those_of_the_golden_file(tmp_path: Path, name: str) -> None:
    """`HIDFD_GOLDEN=write pytest tests/k8s/test_manifest.py` writes them anew; read the difference."""
    path = GOLDEN / f"{name}.yaml"
    found = of(tmp_path, name).objects
    if os.environ.get("HIDFD_GOLDEN") == "write":
        path.write_text(yaml.safe_dump_all(found, sort_keys=False))
    assert list(yaml.safe_load_all(path.read_text())) == found


@pytest.mark.parametrize("version", VERSIONS)
def test_pods_and_config_map_are_valid_in_every_supported_version(manifests: Manifests, version: str) -> None:
    kubernetes_validate.validate(manifests.config_map, version, strict=True)
    for name, pod in pods(manifests).items():
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **pod["metadata"]}, "spec": pod["spec"]}
        kubernetes_validate.validate(made, version, strict=True)


def test_every_container_says_what_it_takes_and_writes_nothing_to_its_image(manifests: Manifests) -> None:
    for name, pod in pods(manifests).items():
        assert pod["spec"]["automountServiceAccountToken"] is (
            name == "head" and "enableInTreeAutoscaling" in str(manifests.ray_job)
        )
        for container in pod["spec"]["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert container["securityContext"]["readOnlyRootFilesystem"]
            writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert {"/tmp"} <= writable


def test_secrets_are_named_and_never_valued(tmp_path: Path) -> None:
    container = pods(of(tmp_path, "everything"))["head"]["spec"]["containers"][0]
    entries = {entry["name"]: entry for entry in container["env"]}
    assert entries["DB_PASSWORD"]["valueFrom"]["secretKeyRef"] == {"name": "hidfd-database", "key": "password"}
    assert "value" not in entries["DB_PASSWORD"]


def test_retries_make_a_new_cluster_whose_command_goes_on(tmp_path: Path) -> None:
    spec = of(tmp_path, "everything").ray_job["spec"]
    assert spec["backoffLimit"] == 5
    assert spec["submitterConfig"] == {"backoffLimit": 0}, "its own second try would call a failed job a success"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["activeDeadlineSeconds"] == 48 * 3600
    assert spec["ttlSecondsAfterFinished"] == 0
    kept = render(request(tmp_path, {**SMALLEST, "keep_minutes": 10}))
    assert kept.ray_job["spec"]["ttlSecondsAfterFinished"] == 600


def test_head_does_no_work_where_there_are_workers(tmp_path: Path) -> None:
    started = {
        name: of(tmp_path, name).ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"]
        for name in CLUSTERS
    }
    assert started == {"smallest": "2", "everything": "0"}


def test_workers_are_told_and_have_time_before_they_go(tmp_path: Path) -> None:
    spec = pods(of(tmp_path, "everything"))["spot"]["spec"]
    shell, _, script, _, seconds = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert (shell, seconds) == ("bash", "30")
    assert spec["terminationGracePeriodSeconds"] > 30
    assert script == (CHART / "files" / "drain.sh").read_text(), "the chart's workers do the same"
    told = {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}["HIDFD_LEAVING"]
    assert told.startswith("/tmp/")


def test_pods_leave_a_silent_node_after_a_minute_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    own = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
    made = render(request(tmp_path, {**SMALLEST, "driver": {"tolerations": [own]}}))
    seconds = [toleration.get("tolerationSeconds") for toleration in pods(made)["head"]["spec"]["tolerations"]]
    assert seconds == [None, 60]
    submitters = [toleration.get("tolerationSeconds") for toleration in pods(made)["submitter"]["spec"]["tolerations"]]
    assert submitters == [None, None], "a try is not worth what it prints"


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb"])
def test_pods_with_gpus_may_go_where_only_such_pods_may(tmp_path: Path, resource: str) -> None:
    groups = {"gpu": {"gpus": 1, "gpu_resource": resource}, "cpu": {}}
    made = pods(render(request(tmp_path, {**SMALLEST, "workers": groups})))
    tolerated = {"key": resource, "operator": "Exists", "effect": "NoSchedule"}
    assert {name for name, pod in made.items() if tolerated in pod["spec"]["tolerations"]} == {"gpu"}


def test_kuberay_adds_nothing_that_the_restricted_profile_refuses(manifests: Manifests) -> None:
    made = kuberay_pods(manifests.ray_job["spec"]["rayClusterSpec"])
    made["submitter"] = pods(manifests)["submitter"]
    assert {name: violations(pod["spec"]) for name, pod in made.items()} == {name: [] for name in made}


def test_only_spot_pods_may_be_moved_by_the_autoscaler(tmp_path: Path) -> None:
    found = {
        name: pod["metadata"].get("annotations", {}).get("cluster-autoscaler.kubernetes.io/safe-to-evict")
        for name, pod in pods(of(tmp_path, "everything")).items()
    }
    assert found == {"submitter": "false", "head": "false", "gpu": "false", "spot": "true"}


def test_ray_version_is_the_one_that_the_image_has() -> None:
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text()
    assert f"\nray=={RAY_VERSION}\n" in lock
