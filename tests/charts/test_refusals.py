"""Values that cannot work or would leave data behind are refused with what to do; a `lookup` replaces the cluster."""

import base64
from pathlib import Path
from typing import Any

import pytest
from helm_python import Chart, HelmError

from tests.charts.rendering import chart_in_a_cluster, objects, one, render, values_of


def refusal(values: dict[str, Any], of: Chart | None = None, **options: bool) -> str:
    with pytest.raises(HelmError) as caught:
        render(values, of=of, **options)
    return str(caught.value)


def ray(group: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rayCluster": {"enabled": True, "workerGroups": {"some": group}} | more}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"database": {"kind": "none"}}, "mlflow.enabled needs a database: set database.kind to chart or external"),
        ({"database": {"kind": "external"}}, "needs database.existingSecret: a Secret with username, password"),
        ({"database": {"image": {"tag": "latest"}}}, "does not begin with PostgreSQL's major version"),
        (
            {"database": {"sslMode": "require"}},
            "PostgreSQL offers no TLS: set database.sslMode to prefer",
        ),
        ({"storage": {"kind": "s3"}}, "storage.kind s3 needs storage.s3.bucket"),
        ({"storage": {"claim": {"accessMode": "ReadWriteOnce"}}}, "set storage.claim.accessMode to ReadWriteMany"),
        ({"rayCluster": {"enabled": True}}, "needs a group in rayCluster.workerGroups"),
        (ray({"gpus": 1, "gpuResource": ""}), "workerGroups.some asks for GPUs: say in gpuResource"),
        (ray({"spot": True}), "workerGroups.some is spot: say in rayCluster.spot.nodeSelector"),
        (ray({"minReplicas": 5}), "minReplicas 5 is above maxReplicas 4"),
        (ray({"replicas": 9}), "replicas 9 is not within minReplicas 0 and maxReplicas 4"),
        (
            ray({"sharedMemory": "10Gi"}),
            "rayCluster.workerGroups.some: sharedMemory 10Gi is a part of memory, which is 8Gi",
        ),
        (
            ray({}, head={"sharedMemory": "6145Mi"}),
            "rayCluster.head: sharedMemory 6145Mi is a part of memory, which is 6Gi",
        ),
        (ray({}, autoscaling={"enabled": True}), "name its address in networkPolicies.apiServer.to"),
        ({"tests": {"clusterScope": True}}, "tests.clusterScope needs the API server"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(values: dict[str, Any], words: str) -> None:
    message = refusal(values)
    assert words in message
    assert "nil pointer" not in message


@pytest.mark.parametrize("release", ["1", "my.hidfd"])
def test_a_release_whose_services_could_have_no_such_name_is_refused(release: str) -> None:
    with pytest.raises(HelmError, match=f"the release's name {release} begins the names of Services"):
        render({}, release)


def test_what_is_refused_works_once_it_is_done() -> None:
    render({"storage": {"claim": {"accessMode": "ReadWriteOnce"}}, "singleNode": True})
    render(ray({"spot": True}, spot={"nodeSelector": {"spot": "yes"}}))
    render(ray({"sharedMemory": "8192Mi"}))
    render({"networkPolicies": {"enabled": False}} | ray({}, autoscaling={"enabled": True}))


def claim(name: str, *, major: str | None = None, modes: tuple[str, ...] = ("ReadWriteMany",)) -> dict[str, Any]:
    labels = {"hidfd/postgresql-major": major} if major else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "labels": labels},
        "spec": {"accessModes": list(modes)},
    }


DATA = claim("data-hidfd-database-0", major="16", modes=("ReadWriteOnce",))


def test_the_claim_remembers_which_postgresql_wrote_it() -> None:
    (template,) = one(objects({}), "StatefulSet", "hidfd-database")["spec"]["volumeClaimTemplates"]
    assert template["metadata"]["labels"]["hidfd/postgresql-major"] == "17"
    assert template["metadata"]["name"] == "data"


def test_another_major_postgresql_is_refused_with_the_migration(tmp_path: Path) -> None:
    there = chart_in_a_cluster(tmp_path, DATA)
    message = refusal({}, there, is_upgrade=True)
    assert "PostgreSQL 17 cannot open what PostgreSQL 16 wrote into the claim data-hidfd-database-0" in message
    assert "pg_dumpall" in message
    assert "kubectl delete -n studies statefulset/hidfd-database pvc/data-hidfd-database-0" in message
    assert "--set mlflow.enabled=false" in message, "or MLflow fills its database before the dump is there"
    assert "--set database.image.tag=16" in message
    render({"database": {"image": {"tag": "16.10"}}}, of=there, is_upgrade=True)


def filled_claim(database: dict[str, Any]) -> dict[str, Any]:
    """Return PostgreSQL's claim of a release with these values."""
    (template,) = one(objects({"database": database}), "StatefulSet", "hidfd-database")["spec"]["volumeClaimTemplates"]
    metadata = template["metadata"] | {"name": "data-hidfd-database-0"}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **template, "metadata": metadata}


@pytest.mark.parametrize(
    ("before", "after", "key", "was"),
    [
        ({}, {"mlflowName": "tracking"}, "mlflowName", "mlflow"),
        ({}, {"name": "studies"}, "name", "hidfd"),
        ({}, {"userId": 70}, "userId", "999"),
        ({"userId": 1000650000}, {}, "userId", "1000650000"),
        ({}, {"existingSecret": "own"}, "existingSecret", "hidfd-database"),
        ({"existingSecret": "own"}, {"existingSecret": "another"}, "existingSecret", "own"),
    ],
)
def test_what_postgresql_reads_once_is_not_changed_over_its_claim(
    before: dict[str, Any], after: dict[str, Any], key: str, was: str, tmp_path: Path
) -> None:
    there = chart_in_a_cluster(tmp_path, filled_claim(before))
    message = refusal({"database": after}, there, is_upgrade=True)
    assert (
        f"database.{key} is {after.get(key, 999)}, but the claim data-hidfd-database-0 was filled with {was}" in message
    )
    assert "pg_dumpall --no-role-passwords" in message, "or the old password comes back with the dump"
    assert f"stay: --set database.{key}={was}" in message
    render({"database": before}, of=there, is_upgrade=True)


def test_name_of_the_database_does_not_count_where_a_secret_of_one_s_own_has_it(tmp_path: Path) -> None:
    there = chart_in_a_cluster(tmp_path, filled_claim({"existingSecret": "own"}))
    render({"database": {"existingSecret": "own", "name": "another"}}, of=there, is_upgrade=True)


def test_another_size_of_the_database_is_refused_with_the_way_to_grow_it(tmp_path: Path) -> None:
    there = chart_in_a_cluster(tmp_path, one(objects({}), "StatefulSet", "hidfd-database"))
    message = refusal({"database": {"size": "20Gi"}}, there, is_upgrade=True)
    assert "does not change the size of data-hidfd-database-0 from 10Gi to 20Gi" in message
    assert """pvc/data-hidfd-database-0 -p '{"spec":{"resources":{"requests":{"storage":"20Gi"}}}}'""" in message
    assert "statefulset/hidfd-database --cascade=orphan" in message
    render({}, of=there, is_upgrade=True)


@pytest.mark.parametrize(
    ("asked", "stored"),
    [("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("1000M", "1G"), ("1024Gi", "1Ti"), ("1.1Gi", "1181116006400m")],
)
def test_a_size_of_the_database_is_the_same_in_the_server_s_words(asked: str, stored: str, tmp_path: Path) -> None:
    server = one(objects({}), "StatefulSet", "hidfd-database")
    server["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] = stored
    there = chart_in_a_cluster(tmp_path, server)
    render({"database": {"size": asked}}, of=there, is_upgrade=True)
    refusal({"database": {"size": asked.replace("1", "2", 1)}}, there, is_upgrade=True)


@pytest.mark.parametrize("kind", ["external", "none"])
def test_another_kind_of_database_is_refused_while_the_old_claim_is_there(tmp_path: Path, kind: str) -> None:
    values = {"database": {"kind": kind, "existingSecret": "own"}, "mlflow": {"enabled": kind == "external"}}
    message = refusal(values, chart_in_a_cluster(tmp_path, DATA), is_upgrade=True)
    assert f"database.kind is {kind}, but the claim data-hidfd-database-0 still holds" in message
    assert "Run this upgrade again" in message
    render(values, is_upgrade=True)


def test_another_storage_is_refused_while_the_old_claim_is_there(tmp_path: Path) -> None:
    there = chart_in_a_cluster(tmp_path, claim("hidfd-store"))
    for values in (values_of("external"), {"storage": {"claim": {"existingClaim": "another"}}}):
        message = refusal(values, there, is_upgrade=True)
        assert "The claim hidfd-store still holds this release's artifacts" in message
        assert "kubectl delete -n studies pvc/hidfd-store" in message
    render({}, of=there, is_upgrade=True)
    render({"storage": {"claim": {"existingClaim": "hidfd-store"}}}, of=there, is_upgrade=True)


def test_a_claim_for_one_node_is_refused_where_there_are_several(tmp_path: Path) -> None:
    there = chart_in_a_cluster(tmp_path, claim("mine", modes=("ReadWriteOnce",)))
    values: dict[str, Any] = {"storage": {"claim": {"existingClaim": "mine"}}}
    assert "the claim mine is not ReadWriteMany" in refusal(values, there)
    render(values | {"singleNode": True}, of=there)


def test_the_password_is_drawn_once_and_kept_in_upgrades(tmp_path: Path) -> None:
    first, second = (one(objects({}), "Secret", "hidfd-database") for _ in range(2))
    assert first["data"]["password"] != second["data"]["password"], "offline, each render draws one"
    there = chart_in_a_cluster(tmp_path, first)
    assert one(objects({}, of=there), "Secret", "hidfd-database")["data"] == first["data"]
    decoded = {key: base64.b64decode(value).decode() for key, value in first["data"].items()}
    assert decoded | {"password": ""} == {
        "username": "hidfd", "password": "", "database": "hidfd", "host": "hidfd-database", "port": "5432",
    }  # fmt: skip
