"""Every pod of the chart, and every pod that KubeRay makes of its Ray cluster, keeps the same rules."""

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.charts.pod_security import containers, violations
from tests.charts.rendering import CASES, CHART, case_objects, objects, pods, values_of

PODS = {f"{case}/{name}": pod for case in CASES for name, pod in pods(case_objects(case)).items()}

MAIN = {
    f"{name}/{container['name']}": container
    for name, pod in PODS.items()
    for container in pod["spec"]["containers"]
    if "/Pod/" not in name and container["name"] != "autoscaler"  # KubeRay allows no probe of its autoscaler
}

PARTS = {"head", "worker", "submitter", "mlflow", "database", "test"}


@pytest.mark.parametrize("name", PODS)
def test_restricted_lets_the_pod_in(name: str) -> None:
    assert violations(PODS[name]["spec"]) == []


@pytest.mark.parametrize("name", PODS)
def test_containers_write_into_volumes_only(name: str) -> None:
    spec = PODS[name]["spec"]
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for container in containers(spec):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert "emptyDir" in volumes[mounts["/tmp"]]
    for volume in volumes.values():
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"], "or it fills the node's disk"


@pytest.mark.parametrize("name", PODS)
def test_containers_ask_for_what_they_may_take(name: str) -> None:
    for container in containers(PODS[name]["spec"]):
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert {"cpu", "memory"} <= set(resources["limits"])


@pytest.mark.parametrize("name", MAIN)
def test_containers_that_stay_have_all_three_probes(name: str) -> None:
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert MAIN[name][probe].keys() & {"httpGet", "tcpSocket", "exec"}, probe


def test_a_database_that_replays_its_log_is_given_an_hour_and_not_killed_meanwhile() -> None:
    container = MAIN["default/StatefulSet/hidfd-database/postgresql"]
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 3600
    assert "pg_isready" in start["exec"]["command"]
    assert "pg_isready" in container["readinessProbe"]["exec"]["command"]
    assert container["livenessProbe"]["tcpSocket"] == {"port": "postgresql"}, "which listens while it recovers"


@pytest.mark.parametrize("name", PODS)
def test_pod_says_its_part_its_account_and_takes_no_token_in_vain(name: str) -> None:
    pod = PODS[name]
    assert pod["metadata"]["labels"]["hidfd/part"] in PARTS
    spec = pod["spec"]
    assert spec["serviceAccountName"].startswith("hidfd-")
    needs_token = (name.startswith(("spot/", "everything/")) and name.endswith("/head")) or "custom-resources" in name
    assert spec["automountServiceAccountToken"] is needs_token
    assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize("case", CASES)
def test_accounts_are_apart_and_give_no_token_by_themselves(case: str) -> None:
    accounts = {item["metadata"]["name"] for item in case_objects(case) if item["kind"] == "ServiceAccount"}
    for item in case_objects(case):
        if item["kind"] == "ServiceAccount":
            assert item["automountServiceAccountToken"] is False
    used = {pod["spec"]["serviceAccountName"] for pod in pods(case_objects(case)).values()}
    assert used <= accounts
    if case == "everything":
        assert accounts == {f"hidfd-{name}" for name in ("driver", "worker", "mlflow", "database", "test")}


@pytest.mark.parametrize("case", CASES)
def test_each_service_selects_exactly_its_pods(case: str) -> None:
    found = case_objects(case)
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(found).items()}
    for service in (item for item in found if item["kind"] == "Service"):
        selector = service["spec"]["selector"].items()
        part = service["metadata"]["labels"]["app.kubernetes.io/component"]
        selected = [name for name, of_pod in labels.items() if selector <= of_pod.items()]
        assert [labels[name]["hidfd/part"] for name in selected] == [part]
        ports = [port for item in pods(found)[selected[0]]["spec"]["containers"] for port in item.get("ports", [])]
        assert [port["targetPort"] for port in service["spec"]["ports"]] == [port["name"] for port in ports]


@pytest.mark.parametrize("case", CASES)
def test_controllers_select_the_pods_that_they_make(case: str) -> None:
    for item in case_objects(case):
        if item["kind"] in ("Deployment", "StatefulSet"):
            labels = item["spec"]["template"]["metadata"]["labels"].items()
            assert item["spec"]["selector"]["matchLabels"].items() <= labels


def test_images_are_pulled_by_digest_and_with_credentials() -> None:
    for name, pod in pods(case_objects("everything")).items():
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}], name
        for container in containers(pod["spec"]):
            digit = "1" if "database" in container["image"] or "postgres" in container["image"] else "0"
            assert container["image"].endswith(f"@sha256:{digit * 64}"), name
    assert "imagePullSecrets" not in PODS["default/Deployment/hidfd-mlflow"]["spec"]


def test_pods_do_not_restart_because_the_chart_has_a_new_version() -> None:
    for name, pod in PODS.items():
        if "/Pod/" not in name:
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(pod["metadata"]["labels"]), name


def worker(case: str = "gpu", group: str = "cpu") -> dict[str, Any]:
    spec: dict[str, Any] = PODS[f"{case}/RayCluster/hidfd/{group}"]["spec"]
    return spec


def test_workers_have_time_to_drain_and_a_little_more() -> None:
    assert worker()["terminationGracePeriodSeconds"] == 75 + 10
    assert worker("spot", "spot")["terminationGracePeriodSeconds"] == 100 + 10
    command = worker("spot", "spot")["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command == ["bash", "-c", (CHART / "files" / "drain.sh").read_text(), "drain", "100"]


@pytest.mark.parametrize(
    ("titles", "is_waited_for"),
    [
        (["ray::IDLE", "ray::ImplicitFunc.train"], True),
        (["ray::IDLE", "ray::IDLE_SpillWorker", "ray::DashboardAgent", "ray::RuntimeEnvAgent"], False),
        ([], False),
    ],
)
def test_drain_waits_for_work_of_ray_and_for_nothing_else(
    titles: list[str], is_waited_for: bool, tmp_path: Path
) -> None:
    for number, title in enumerate(["/usr/bin/python ray::no", *titles]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "cmdline").write_text(f"{title}\0\0")
    bash, c, script, name, _ = worker()["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    start = time.monotonic()
    subprocess.run([bash, c, script.replace("/proc/", f"{tmp_path}/"), name, "2"], check=True, timeout=30)
    assert (time.monotonic() - start >= 1) is is_waited_for


def test_workers_of_spot_nodes_may_be_evicted_and_no_other() -> None:
    annotation = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    ray = pods(case_objects("everything"))
    found = {
        name.rpartition("/")[2]: pod["metadata"]["annotations"][annotation]
        for name, pod in ray.items()
        if "Ray" in name
    }
    assert found == {"head": "false", "cpu": "false", "gpu": "false", "spot": "true"}


def test_one_budget_covers_every_head_and_no_other_pod() -> None:
    (budget,) = [item for item in case_objects("gpu") if item["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["selector"] == {"matchLabels": {"hidfd/part": "head"}}
    assert not [item for item in objects(values_of("laptop")) if item["kind"] == "PodDisruptionBudget"]
