"""The chart's permanent Ray cluster: its groups, autoscaling, queue and token."""

from typing import Any

import pytest
import yaml

from tests.charts.rendering import case_objects, objects, one, render


def cluster(case: str) -> dict[str, Any]:
    return one(case_objects(case), "RayCluster", "hidfd")


def group(case: str, name: str) -> dict[str, Any]:
    (found,) = [item for item in cluster(case)["spec"]["workerGroupSpecs"] if item["groupName"] == name]
    return found


def of(groups: dict[str, Any], **ray: Any) -> list[dict[str, Any]]:
    found = objects({"rayCluster": {"enabled": True, "workerGroups": groups} | ray})
    specs: list[dict[str, Any]] = one(found, "RayCluster", "hidfd")["spec"]["workerGroupSpecs"]
    return specs


def test_there_is_none_unless_asked_for() -> None:
    assert not [item for item in case_objects("default") if item["kind"] == "RayCluster"]


def test_head_runs_no_trials_and_listens_for_jobs() -> None:
    parameters = cluster("gpu")["spec"]["headGroupSpec"]["rayStartParams"]
    assert (parameters["dashboard-host"], parameters["num-cpus"]) == ("0.0.0.0", "0")


def test_a_group_has_the_defaults_and_what_it_says_itself() -> None:
    (found,) = of({"cpu": {"maxReplicas": 9}}, workerDefaults={"cpus": "3"})
    assert (found["replicas"], found["minReplicas"], found["maxReplicas"]) == (1, 0, 9)
    assert found["template"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "3", "memory": "8Gi"}


@pytest.mark.parametrize(
    ("name", "resource", "gpus"), [("gpu", "nvidia.com/gpu", "1"), ("slice", "nvidia.com/mig-1g.10gb", "2")]
)
def test_a_gpu_group_asks_for_gpus_tolerates_their_taint_and_tells_ray(name: str, resource: str, gpus: str) -> None:
    spec = group("gpu", name)["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"][resource] == gpus
    assert {"key": resource, "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    assert group("gpu", name)["rayStartParams"]["num-gpus"] == gpus


def test_a_group_without_gpus_asks_for_none_and_tolerates_nothing() -> None:
    spec = group("gpu", "cpu")["template"]["spec"]
    assert set(spec["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}
    assert "tolerations" not in spec
    assert group("gpu", "cpu")["rayStartParams"]["num-gpus"] == "0"


def test_a_spot_group_goes_to_nodes_that_may_be_taken_away() -> None:
    spec = group("spot", "spot")["template"]["spec"]
    assert spec["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert {item["key"] for item in spec["tolerations"]} == {"cloud.google.com/gke-spot", "nvidia.com/gpu"}
    everything = group("everything", "spot")["template"]["spec"]
    assert [item["key"] for item in everything["tolerations"]] == ["reserved", "nvidia.com/gpu"], "its own stay"
    assert everything["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert "nodeSelector" not in group("everything", "cpu")["template"]["spec"], "and no other group has them"


def test_shared_memory_is_memory_of_the_group_s_size() -> None:
    spec = group("gpu", "gpu")["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in spec["containers"][0]["volumeMounts"]


def test_ray_keeps_its_objects_in_shared_memory_and_leaves_a_fifth_of_it() -> None:
    assert cluster("gpu")["spec"]["headGroupSpec"]["rayStartParams"]["object-store-memory"] == "858993459"
    assert group("gpu", "cpu")["rayStartParams"]["object-store-memory"] == "1717986918"
    assert group("gpu", "gpu")["rayStartParams"]["object-store-memory"] == "6871947673"


def test_autoscaling_gives_the_head_a_token_and_the_autoscaler_the_same_security() -> None:
    spec = cluster("spot")["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    head = spec["headGroupSpec"]["template"]["spec"]
    assert head["automountServiceAccountToken"] is True
    assert spec["autoscalerOptions"]["securityContext"] == head["containers"][0]["securityContext"]
    assert {"name": "tmp", "mountPath": "/tmp"} in spec["autoscalerOptions"]["volumeMounts"]
    fixed = cluster("kueue")["spec"]
    assert fixed["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in fixed
    assert fixed["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_kueue_finds_the_cluster_by_its_queue() -> None:
    label = "kueue.x-k8s.io/queue-name"
    assert cluster("kueue")["metadata"]["labels"][label] == "research"
    assert label not in cluster("gpu")["metadata"]["labels"]


def test_kueue_takes_an_autoscaling_cluster_by_its_annotation() -> None:
    elastic = "kueue.x-k8s.io/elastic-job"
    found = {case: cluster(case)["metadata"].get("annotations", {}) for case in ("everything", "kueue", "spot")}
    assert found == {"everything": {elastic: "true"}, "kueue": {}, "spot": {}}


def test_ray_wants_a_token_unless_told_otherwise() -> None:
    assert cluster("gpu")["spec"]["authOptions"] == {"mode": "token"}
    assert cluster("everything")["spec"]["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    values = {"rayCluster": {"enabled": True, "workerGroups": {"cpu": {}}, "tokenAuthentication": {"enabled": False}}}
    assert "authOptions" not in one(objects(values), "RayCluster", "hidfd")["spec"]


def test_the_driver_alone_knows_database_and_mlflow_and_all_know_the_store() -> None:
    head = cluster("laptop")["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    worker = group("laptop", "cpu")["template"]["spec"]["containers"][0]
    known = {"PGPASSWORD", "MLFLOW_TRACKING_URI", "DB_PASSWORD"}
    assert known <= {item["name"] for item in head["env"]}
    assert not known & {item["name"] for item in worker["env"]}
    secret = {"secretKeyRef": {"name": "hidfd-database", "key": "password"}}
    assert {"name": "DB_PASSWORD", "valueFrom": secret} in head["env"], "by this docs/kubernetes.md names the ledger"
    for container in (head, worker):
        assert {"name": "store", "mountPath": "/mnt/hidfd"} in container["volumeMounts"]


def test_prometheus_reads_all_ray_pods_those_of_studies_too() -> None:
    monitor = one(case_objects("everything"), "PodMonitor", "hidfd-ray")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchExpressions"] == [
        {"key": "hidfd/part", "operator": "In", "values": ["head", "worker"]}
    ]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    ports = cluster("everything")["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    assert {"name": endpoint["port"], "containerPort": 8080} in ports
    assert not [item for item in case_objects("default") if item["kind"] == "PodMonitor"]


def test_labels_of_the_monitor_stand_once_and_win_over_those_of_all_objects() -> None:
    values = {"labels": {"team": "a", "release": "b"}, "monitoring": {"enabled": True, "labels": {"release": "c"}}}
    text = render(values)["hidfd/templates/ray/podmonitor.yaml"]
    assert text.count("release:") == 1
    labels = yaml.safe_load(text)["metadata"]["labels"]
    assert (labels["team"], labels["release"], labels["app.kubernetes.io/version"]) == ("a", "c", "0.1.0")
