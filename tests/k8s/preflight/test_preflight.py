"""The findings of preflight in a cluster in which something is missing, and what they say to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k8s.client import Api
from k8s.errors import PreflightError, Unreachable
from k8s.preflight.check import Check, CheckStatus
from k8s.preflight.provisions import study_file
from k8s.preflight.run import preflight, refuse_failed
from tests.k8s.api_server import ApiServer
from tests.k8s.conftest import NAMESPACED
from tests.k8s.study_files import EVERYTHING, REMOTE, SMALLEST, request, tree

POST_PODS = f"POST {NAMESPACED}/pods "

PASS, WARN, FAIL = CheckStatus


@pytest.fixture
def find(tmp_path: Path, api: Api) -> Any:
    """The findings of a preflight by their names."""

    def find(cluster: dict[str, Any] | None = None, *overrides: str, **sections: Any) -> dict[str, Check]:
        return {check.name: check for check in preflight(request(tmp_path, cluster, *overrides, **sections), api)}

    return find


def worst(found: dict[str, Check]) -> list[str]:
    return [check.name for check in found.values() if check.status is not PASS]


def test_nothing_is_missing_in_a_cluster_that_has_everything(find: Any) -> None:
    found = find()
    assert worst(found) == ["queue research"], "which a group that grows needs a feature gate for"
    assert "the server would admit the pods" in found["pod security"].found


@pytest.mark.parametrize(
    ("gone", "name", "says"),
    [
        ("/apis/ray.io/v1", "KubeRay", "helm repo add kuberay"),
        (NAMESPACED, "namespace", "kubectl create namespace studies"),
        (f"{NAMESPACED}/secrets/s3", "secret s3", "kubectl create secret generic s3"),
        (f"{NAMESPACED}/secrets/registry", "pull secret registry", "docker-registry registry"),
        (f"{NAMESPACED}/persistentvolumeclaims/hidfd-store", "claim hidfd-store", "cluster.volumes.results.claim"),
        (f"{NAMESPACED}/serviceaccounts/hidfd-driver", "service account hidfd-driver", "install the chart"),
        ("/apis/scheduling.k8s.io/v1/priorityclasses/low", "priority class low", "kubectl get priorityclasses"),
        ("/apis/kueue.x-k8s.io", "queue research", "kubectl get localqueues"),
    ],
)
def test_what_is_not_there_is_named_with_what_to_do(
    find: Any, server: ApiServer, gone: str, name: str, says: str
) -> None:
    del server.objects[gone]
    check = find()[name]
    assert check.status is FAIL
    assert says in check.todo


def test_namespace_that_does_not_exist_is_one_finding_and_not_twelve(find: Any, server: ApiServer) -> None:
    del server.objects[NAMESPACED]
    assert worst(find()) == ["namespace"]


def test_old_server_is_refused(find: Any, server: ApiServer) -> None:
    server.objects["/version"] |= {"minor": "27", "gitVersion": "v1.27.9"}
    assert find()["API server"].status is FAIL


@pytest.mark.parametrize(
    ("change", "expected", "says"),
    [
        ({"status": {"readyReplicas": 0}}, FAIL, "of which no pod is ready"),
        ({"image": "registry.example/operator:v1.5.0"}, FAIL, "operator:v1.5.0 in kuberay"),
        ({"image": "registry.example/operator:v1.5.1"}, PASS, "operator:v1.5.1 in kuberay"),
        ({"image": "registry.example:5000/operator:1.5"}, PASS, "operator:1.5 in kuberay"),
        ({"image": "registry.example/operator:nightly"}, PASS, "operator:nightly in kuberay"),
    ],
)
def test_operator_has_to_run_and_be_new_enough(
    find: Any, server: ApiServer, change: dict[str, Any], expected: CheckStatus, says: str
) -> None:
    deployment = server.objects["/apis/apps/v1/deployments/kuberay-operator"]
    image = change.pop("image", None)
    if image:
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = image
    deployment |= change
    check = find()["KubeRay operator"]
    assert check.status is expected
    assert says in check.found


def test_permission_that_is_missing_is_named_with_account_verb_and_resource(
    find: Any, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = server.answer

    def answer(method: str, path: str, query: Any, body: Any) -> Any:
        status, found = ordinary(method, path, query, body)
        attributes = body.get("spec", {}).get("resourceAttributes", {})
        if attributes.get("resource") == "rayjobs" and attributes.get("verb") == "create":
            found["status"]["allowed"] = False
        return status, found

    monkeypatch.setattr(server, "answer", answer)
    check = find()["permissions"]
    assert check.status is FAIL
    assert check.found == "tester may not create rayjobs of ray.io in studies"


def quota(server: ApiServer, **hard: str) -> None:
    server.put(f"{NAMESPACED}/resourcequotas/team", status={"hard": hard, "used": dict.fromkeys(hard, "0")})


@pytest.mark.parametrize(
    ("hard", "expected", "says"),
    [
        ({"requests.cpu": "8"}, FAIL, "will not suffice: team: requests.cpu: 8 of 8 left, 13 needed"),
        ({"limits.memory": "30Gi"}, FAIL, "30Gi of 30Gi left, 39Gi needed"),
        (
            {"requests.nvidia.com/gpu": "4"},
            WARN,
            "may not suffice: team: requests.nvidia.com/gpu: 4 of 4 left, 32",
        ),
        ({"pods": "2"}, FAIL, "pods: 2 of 2 left, 3 needed"),
        (
            {"count/pods": "200", "requests.cpu": "150000000000n", "persistentvolumeclaims": "1"},
            PASS,
            "team: enough is left",
        ),
    ],
)
def test_quota_is_held_against_all_that_the_study_takes(
    find: Any, server: ApiServer, hard: dict[str, str], expected: CheckStatus, says: str
) -> None:
    quota(server, **hard)
    check = find()["quota"]
    assert check.status is expected
    assert says in check.found


def test_quota_that_was_lowered_below_what_is_used_of_other_things_is_none_of_ours(
    find: Any, server: ApiServer
) -> None:
    quota(server, **{"count/secrets": "0"})
    server.objects[f"{NAMESPACED}/resourcequotas/team"]["status"]["used"] = {"count/secrets": "3"}
    assert find()["quota"].status is PASS


def test_quota_of_other_pods_is_none_of_ours(find: Any, server: ApiServer) -> None:
    quota(server, pods="0")
    server.objects[f"{NAMESPACED}/resourcequotas/team"]["spec"] = {"scopes": ["BestEffort"]}
    assert find()["quota"].status is PASS


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (
            {"type": "Container", "max": {"memory": "16Gi"}},
            ["ray-worker of gpu asks for 32Gi memory, small allows anything to 16Gi"],
        ),
        (
            {"type": "Container", "min": {"cpu": "1"}},
            [
                "autoscaler of driver asks for 0.5 cpu, small allows 1 to anything",
                "wait-gcs-ready of gpu asks for 0.2 cpu, small allows 1 to anything",
                "wait-gcs-ready of spot asks for 0.2 cpu, small allows 1 to anything",
                "ray-job-submitter of submitter asks for 0.5 cpu, small allows 1 to anything",
            ],
        ),
        (
            {"type": "Pod", "max": {"memory": "32Gi", "cpu": "4"}, "min": {"cpu": "1"}},
            [
                "driver asks for 4.5 cpu, small allows 1 to 4",
                "gpu asks for 8 cpu, small allows 1 to 4",
                "submitter asks for 0.5 cpu, small allows 1 to 4",
            ],
        ),
        ({"type": "Container", "max": {"memory": "32Gi", "cpu": "8"}, "min": {"cpu": "200m"}}, []),
        ({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}, []),
    ],
)
def test_limit_range_is_kept_by_every_container_and_every_pod(
    find: Any, server: ApiServer, limit: dict[str, Any], says: list[str]
) -> None:
    server.put(f"{NAMESPACED}/limitranges/small", spec={"limits": [limit]})
    check = find()["limit range"]
    assert check.status is (FAIL if says else PASS)
    assert check.found == ("; ".join(says) or "kept")


def test_group_that_fits_no_node_fails_and_says_what_the_largest_has(find: Any) -> None:
    group = EVERYTHING["workers"]["gpu"]
    check = find({**EVERYTHING, "workers": {"gpu": {**group, "gpus": 16}}})["nodes for gpu"]
    assert check.status is FAIL
    assert "the largest have 64 cpu, 256Gi memory, 8 nvidia.com/gpu" in check.found
    check = find({**EVERYTHING, "workers": {"gpu": {**group, "node_selector": {"pool": "none"}}}})["nodes for gpu"]
    assert check.status is FAIL
    assert "none has the labels of node_selector {'pool': 'none'}" in check.found


def test_taint_that_a_group_does_not_tolerate_closes_its_nodes_but_that_of_its_gpus_does_not(
    find: Any, server: ApiServer
) -> None:
    group = {**EVERYTHING["workers"]["gpu"], "tolerations": [], "count": 3, "max_count": None, "gpus": 4}
    asked = {**EVERYTHING, "workers": {"gpu": group}}
    (taint,) = server.objects["/api/v1/nodes/gpu-1"]["spec"]["taints"]
    assert taint["key"] == "nvidia.com/gpu"
    assert find(asked)["nodes for gpu"].status is PASS
    taint["key"] = "dedicated"
    check = find(asked)["nodes for gpu"]
    assert check.status is WARN
    assert check.found.startswith("room for 2 pods of 8 cpu, 32Gi memory, 4 nvidia.com/gpu, 3 wanted")
    server.objects["/api/v1/nodes/gpu-2"]["spec"]["unschedulable"] = True
    assert find(asked)["nodes for gpu"].status is FAIL


def only_nodes(server: ApiServer, **allocatable: dict[str, str]) -> None:
    for path in [path for path in server.objects if path.startswith("/api/v1/nodes/")]:
        del server.objects[path]
    for name, has in allocatable.items():
        server.put(f"/api/v1/nodes/{name}", status={"allocatable": {"memory": "64Gi"} | has})


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"n": {"cpu": "4"}}, "room for 2 of the 4 pods that start"),
        ({"n": {"cpu": "10"}}, "room for 3 of the 4 pods that start"),
        ({"n": {"cpu": "10500m"}}, None),
        ({"n": {"cpu": "4"}, "m": {"cpu": "4"}, "o": {"cpu": "2500m"}}, None),
    ],
)
def test_pods_have_to_fit_side_by_side(
    find: Any, server: ApiServer, nodes: dict[str, dict[str, str]], words: str | None
) -> None:
    only_nodes(server, **nodes)
    found = find({**SMALLEST, "workers": {"a": {"cpus": 4}, "b": {"cpus": 4}}})
    assert {found[f"nodes for {name}"].status for name in ("driver", "a", "b")} == {PASS}
    assert found["nodes for all"].found.startswith(words or "room for all 4 pods that start")
    assert found["nodes for all"].status is (WARN if words else PASS)
    assert bool(found["nodes for all"].todo) is bool(words)


def test_pods_that_few_nodes_can_take_are_given_theirs_first(find: Any, server: ApiServer) -> None:
    only_nodes(server, g={"cpu": "8", "nvidia.com/gpu": "1"}, n={"cpu": "8"})
    found = find({**SMALLEST, "workers": {"gpu": {"cpus": 8, "gpus": 1}}})
    assert found["nodes for all"].status is PASS


@pytest.mark.parametrize(
    ("autoscaler", "words"),
    [
        (
            f"{NAMESPACED.replace('studies', 'kube-system')}/configmaps/cluster-autoscaler-status",
            "the cluster autoscaler",
        ),
        ("/apis/karpenter.sh/v1/nodepools", "karpenter"),
    ],
)
def test_nodes_that_may_still_come_are_no_failure(find: Any, server: ApiServer, autoscaler: str, words: str) -> None:
    server.put(autoscaler)
    group = {**EVERYTHING["workers"]["gpu"], "gpus": 16}
    check = find({**EVERYTHING, "workers": {"gpu": group}})["nodes for gpu"]
    assert check.status is WARN
    assert f"{words} may bring nodes" in check.found
    only_nodes(server, n={"cpu": "4"})
    check = find({**SMALLEST, "workers": {"a": {"cpus": 4}}})["nodes for all"]
    assert (check.status, check.todo) == (WARN, None)
    assert f"{words} may bring nodes" in check.found


@pytest.mark.parametrize(
    ("resources", "workers", "expected", "says"),
    [
        ({"cpus_per_worker": 16}, {"gpu": {"cpus": 8}}, FAIL, "no pod has as much"),
        ({"gpus_per_worker": 1}, {"cpu": {"count": 2}}, FAIL, "no pod has as much"),
        ({"num_workers": 4, "gpus_per_worker": 1}, {"gpu": {"gpus": 1, "count": 3}}, FAIL, "room for 3"),
        ({"gpus_per_worker": 0.25}, {"gpu": {"gpus": 1, "cpus": 8}}, PASS, "4 side by side"),
        ({"gpus_per_worker": 0.25}, {"gpu": {"gpus": 1, "cpus": 3}}, WARN, "3 side by side"),
        ({"cpus_per_worker": 1}, {}, WARN, "2 side by side, study.concurrency is 4"),
    ],
)
def test_task_is_held_against_what_one_pod_has(
    find: Any, resources: dict[str, Any], workers: dict[str, Any], expected: CheckStatus, says: str
) -> None:
    check = find({**SMALLEST, "workers": workers}, resources=resources)["a task"]
    assert check.status is expected
    assert says in check.found


def test_gpus_that_no_task_asks_for_are_told(find: Any) -> None:
    group = {"gpu": {"gpus": 1, "cpus": 8}}
    assert "gpu: no task asks for one" in find({**SMALLEST, "workers": group})["GPUs"].found
    assert "GPUs" not in find({**SMALLEST, "workers": group}, resources={"gpus_per_worker": 1})


def test_image_without_digest_is_a_warning(find: Any) -> None:
    check = find({**EVERYTHING, "image": "registry.example/hidfd:1"})["image"]
    assert check.status is WARN


def test_material_of_this_machine_is_refused_with_the_command_that_imports_it(find: Any) -> None:
    trial = tree()["trial"]
    trial["data"]["candidates"] = {"path": "photos"}
    check = find(trial=trial)["material"]
    assert check.status is FAIL
    assert "trial.data.candidates: " in check.found
    assert check.found.endswith("/photos")
    assert "study.yaml --store s3://bucket/hidfd puts it into the store" in check.todo
    assert check.todo.startswith("python -m hidfd import ")
    check = find(trial=trial, storage={**REMOTE, "store": "file:///mnt/hidfd/store"})["material"]
    assert "--store STORE puts it into the store" in check.todo


def test_material_on_s3_is_left_to_the_pods_which_need_keys_for_it(find: Any) -> None:
    trial = tree()["trial"]
    trial["data"]["candidates"] = {"path": "s3://photos/web"}
    check = find(SMALLEST, trial=trial)["material"]
    assert check.status is WARN
    assert "trial.data.candidates: s3://photos/web" in check.found
    assert "no AWS_ACCESS_KEY_ID under cluster.secrets" in check.found
    check = find(EVERYTHING, trial=trial)["material"]
    assert (check.status, check.found) == (PASS, "read from S3: trial.data.candidates: s3://photos/web")


@pytest.mark.parametrize(
    ("place", "where", "expected", "says"),
    [
        ("store", ".hidfd/store", FAIL, "would be inside a pod, deleted with it"),
        ("ledger", "/data/ledger.db", FAIL, "postgresql://"),
        ("tracking", "sqlite:///mlflow.db", FAIL, "an MLflow server"),
        ("results", ".hidfd/results", WARN, "is deleted with the driver's pod"),
        ("ledger", "/mnt/hidfd/ledger.db", WARN, "is a file on a claim"),
        ("tracking", "sqlite:////mnt/hidfd/mlflow.db", WARN, "is a file on a claim"),
        ("store", "/mnt/hidfd/store", PASS, "on claim hidfd-store"),
        ("store", "file:///mnt/hidfd/store", PASS, "on claim hidfd-store"),
        ("store", "file:///tmp/store", FAIL, "would be inside a pod"),
        ("tracking", "file:///tmp/mlruns", FAIL, "would be inside a pod"),
        ("store", "/mnt/hidfd2/store", FAIL, "would be inside a pod"),
    ],
)
def test_every_place_has_to_outlive_its_pod(
    find: Any, place: str, where: str, expected: CheckStatus, says: str
) -> None:
    check = find(storage={**REMOTE, place: where})[f"storage.{place}"]
    assert check.status is expected
    assert says in f"{check.found} {check.todo}"


def test_place_lies_on_the_claim_that_is_mounted_nearest(find: Any) -> None:
    above = {"claim": "hidfd-store", "mount_path": "/mnt", "read_only": True}
    volumes = {"above": above, **EVERYTHING["volumes"]}
    found = find({**EVERYTHING, "volumes": volumes}, storage={**REMOTE, "store": "/mnt/hidfd/store"})
    assert found["storage.store"].status is PASS
    found = find({**EVERYTHING, "volumes": volumes}, storage={**REMOTE, "store": "/mnt/store"})
    assert "is on above, which is read_only" in found["storage.store"].found


def test_place_of_the_pods_environment_wins_over_the_file(find: Any) -> None:
    environment = {"HIDFD_STORE": "/mnt/hidfd/store", "HIDFD_LEDGER": "postgresql://db/x"}
    found = find({**EVERYTHING, "environment": environment}, storage={"results": "/mnt/hidfd/results"})
    assert found["storage.store"].status is PASS
    assert found["storage.ledger"].status is PASS


def test_place_of_the_command_line_wins_over_the_pods_environment_and_a_secrets_place_is_not_known_here(
    find: Any,
) -> None:
    environment = {"HIDFD_STORE": "/nowhere"}
    secrets = EVERYTHING["secrets"] | {"HIDFD_LEDGER": {"secret": "hidfd-database", "key": "password"}}
    cluster = {**EVERYTHING, "environment": environment, "secrets": secrets}
    found = find(cluster, "storage.store=s3://bucket/other")
    assert found["storage.store"].found == "s3://bucket/other"
    assert found["storage.ledger"].found == "the value in the Secret hidfd-database"


def test_typing_error_in_the_search_is_found_before_a_driver_would_refuse_it_in_every_try(
    tmp_path: Path, api: Api
) -> None:
    search = {"generation.smoothing.temprature": {"type": "flaot"}}
    (check,) = study_file(request(tmp_path, study={"num_studnets": 3}, search=search), api)
    assert check.status is FAIL
    assert "did you mean `num_students`?" in check.found
    (check,) = study_file(request(tmp_path), api)
    assert check.status is PASS


def test_variable_that_no_pod_has_is_named(find: Any) -> None:
    check = find({**EVERYTHING, "secrets": {}})["storage"]
    assert check.status is FAIL
    assert check.todo == "give it under cluster.secrets.DB_PASSWORD"


def test_secret_without_the_key_says_which_it_has(find: Any) -> None:
    secrets = EVERYTHING["secrets"] | {"DB_PASSWORD": {"secret": "hidfd-database", "key": "pasword"}}
    check = find({**EVERYTHING, "secrets": secrets})["secret hidfd-database"]
    assert check.status is FAIL
    assert check.found == "has no key pasword, but password, username"


def test_claim_for_one_node_does_not_do_for_several_pods(find: Any, server: ApiServer) -> None:
    server.objects[f"{NAMESPACED}/persistentvolumeclaims/hidfd-store"]["spec"]["accessModes"] = ["ReadWriteOnce"]
    assert find()["claim hidfd-store"].status is FAIL
    one = {path: thing for path, thing in server.objects.items() if not path.startswith("/api/v1/nodes/gpu")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "objects", one)
        assert find()["claim hidfd-store"].status is WARN, "a laptop's only node"
        server.objects[f"{NAMESPACED}/persistentvolumeclaims/hidfd-store"]["spec"]["accessModes"] = ["ReadWriteOncePod"]
        check = find()["claim hidfd-store"]
        assert check.status is FAIL
        assert check.found == "ReadWriteOncePod: one pod only, and there are 25 pods"
    alone = {**EVERYTHING, "workers": {}}
    assert find(alone)["claim hidfd-store"].status is PASS


@pytest.mark.parametrize(
    ("binding", "expected"),
    [("WaitForFirstConsumer", PASS), ("Immediate", WARN), (None, FAIL)],
)
def test_claim_without_a_volume_depends_on_its_storage_class(
    find: Any, server: ApiServer, binding: str | None, expected: CheckStatus
) -> None:
    claim = server.objects[f"{NAMESPACED}/persistentvolumeclaims/hidfd-store"]
    claim["status"], claim["spec"]["storageClassName"] = {"phase": "Pending"}, "nfs"
    if binding:
        server.put("/apis/storage.k8s.io/v1/storageclasses/nfs", volumeBindingMode=binding)
    assert find()["claim hidfd-store"].status is expected


@pytest.mark.parametrize("status", [403, 503])
def test_what_cannot_be_looked_at_is_a_warning(find: Any, refuse: Any, status: int) -> None:
    refuse(status, "not now", "/nodes ", "/secrets/", "deployments", "resourcequotas", "priorityclasses", "kueue")
    found = find()
    assert {check.status for check in found.values()} == {PASS, WARN}
    assert set(worst(found)) == {
        *("KubeRay operator", "quota", "nodes", "secret s3", "secret hidfd-database", "pull secret registry"),
        *("priority class low", "queue research"),
    }


@pytest.mark.parametrize("status", [403, 503])
@pytest.mark.parametrize("hidden", ["storageclasses", "persistentvolumeclaims/hidfd-store"])
def test_claim_that_cannot_be_looked_at_hides_no_other(
    find: Any, server: ApiServer, refuse: Any, status: int, hidden: str
) -> None:
    claim = server.objects[f"{NAMESPACED}/persistentvolumeclaims/hidfd-store"]
    claim["status"], claim["spec"]["storageClassName"] = {"phase": "Pending"}, "nfs"
    refuse(status, "not now", hidden)
    volumes = EVERYTHING["volumes"] | {"z": {"claim": "absent", "mount_path": "/mnt/z"}}
    found = find({**EVERYTHING, "volumes": volumes})
    assert found["claim hidfd-store"].status is WARN
    assert found["claim absent"].status is FAIL


def test_pods_are_tried_though_the_namespace_may_not_be_looked_at(find: Any, refuse: Any) -> None:
    refuse(403, "not yours", f"GET {NAMESPACED} ")
    refuse(403, 'violates PodSecurity "restricted:latest"', POST_PODS)
    found = find()
    assert found["namespace"].status is WARN
    assert found["pod security"].status is FAIL


def test_autoscaler_that_cannot_be_looked_for_is_not_ruled_out(find: Any, refuse: Any) -> None:
    refuse(503, "not now", "nodepools")
    group = {**EVERYTHING["workers"]["gpu"], "gpus": 16}
    assert find({**EVERYTHING, "workers": {"gpu": group}})["nodes for gpu"].status is WARN


def test_server_that_does_not_answer_at_all_is_no_finding(find: Any, refuse: Any) -> None:
    refuse(503, "not now", "/version")
    with pytest.raises(Unreachable, match="answers 503: not now"):
        find()


def test_pods_that_the_namespace_would_refuse_are_told_in_the_servers_words(find: Any, refuse: Any) -> None:
    refuse(403, 'pods is forbidden: violates PodSecurity "restricted:latest": hostPath', POST_PODS)
    check = find()["pod security"]
    assert check.status is FAIL
    assert "violates PodSecurity" in check.found


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (403, 'admission webhook "policy.example" denied the request: no such registry', FAIL),
        (403, 'pods "x" is forbidden: exceeded quota: team', PASS),
        (400, 'admission webhook "old.example" does not support dry run', WARN),
    ],
)
def test_what_else_the_server_says_to_the_pods_counts(
    find: Any, refuse: Any, status: int, message: str, expected: CheckStatus
) -> None:
    refuse(status, message, POST_PODS)
    assert find()["pod security"].status is expected


def test_service_account_that_is_missing_is_what_the_pods_are_refused_for(
    find: Any, server: ApiServer, refuse: Any
) -> None:
    del server.objects[f"{NAMESPACED}/serviceaccounts/hidfd-driver"]
    refuse(403, 'pods "x" is forbidden: error looking up service account studies/hidfd-driver: not found', POST_PODS)
    found = find()
    assert found["pod security"].status is WARN
    assert found["service account hidfd-driver"].status is FAIL


@pytest.mark.parametrize(
    ("status", "message", "expected", "says"),
    [
        (403, 'User "x" cannot create resource "rayjobs"', WARN, "may not be tried"),
        (403, 'admission webhook "kueue" denied the request: elastic', FAIL, "denied the request: elastic"),
        (400, 'strict decoding error: unknown field "spec.authOptions"', FAIL, 'field "spec.authOptions"'),
        (400, 'admission webhook "old" does not support dry run', WARN, "does not support dry run"),
        (503, "not now", WARN, "not now"),
    ],
)
def test_server_itself_says_whether_it_would_take_the_job(
    find: Any, server: ApiServer, refuse: Any, status: int, message: str, expected: CheckStatus, says: str
) -> None:
    assert find()["job"].status is PASS
    assert not [path for path in server.objects if "/rayjobs/" in path], "it is only tried"
    refuse(status, message, "/rayjobs ")
    check = find()["job"]
    assert check.status is expected
    assert says in check.found


def test_queue_is_a_warning_for_a_group_that_grows_only(find: Any) -> None:
    assert "gate ElasticJobsViaWorkloadSlices" in find()["queue research"].todo
    assert find({**EVERYTHING, "workers": {"gpu": {"gpus": 1}}})["queue research"].status is PASS


def network_policy(server: ApiServer, name: str, *parts: str) -> None:
    server.put(
        f"/apis/networking.k8s.io/v1/namespaces/studies/networkpolicies/{name}",
        metadata={"labels": {"app.kubernetes.io/name": "hidfd", "app.kubernetes.io/component": "network"}},
        spec={"podSelector": {"matchExpressions": [{"key": "hidfd/part", "operator": "In", "values": list(parts)}]}},
    )


def test_study_that_grows_needs_a_way_to_the_api_server(find: Any, server: ApiServer, refuse: Any) -> None:
    assert find()["network policies"].status is PASS
    network_policy(server, "hidfd-deny", "head", "worker")
    check = find()["network policies"]
    assert check.status is WARN
    assert "networkPolicies.apiServer.to" in check.todo
    network_policy(server, "hidfd-api-server", "head", "test")
    assert find()["network policies"].status is PASS
    refuse(403, "not yours", "networkpolicies")
    check = find()["network policies"]
    assert check.status is WARN
    assert "networkPolicies.apiServer.to" in check.found
    assert "network policies" not in find({**EVERYTHING, "workers": {"gpu": {"gpus": 1}}})


def test_failed_checks_are_all_told_before_anything_starts(find: Any) -> None:
    with pytest.raises(PreflightError) as caught:
        refuse_failed(list(find({**EVERYTHING, "secrets": {}, "priority_class": "none"}).values()))
    assert str(caught.value).startswith("nothing was submitted:\n")
    assert "storage: the pods have no environment variable DB_PASSWORD" in str(caught.value)
    assert "priority class none: does not exist" in str(caught.value)


def test_json_keeps_the_name_that_programs_know_for_the_check_of_a_task() -> None:
    assert Check("a task", CheckStatus.PASS, "fits").to_json()["name"] == "a piece of work"
    assert Check("quota", CheckStatus.PASS, "fits").to_json()["name"] == "quota"
