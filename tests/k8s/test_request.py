"""The section `cluster:`: its settings, and the message for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hidfd.errors import ConfigError
from k8s.manifest import WORK_FOLDER, render
from k8s.request import read_request
from tests.k8s.study_files import EVERYTHING, SMALLEST, request, tree


def refusal(folder: Path, cluster: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        request(folder, cluster, *overrides)
    return str(caught.value).replace(f"{folder}/", "")


def test_file_without_the_section_says_the_least_that_it_needs(tmp_path: Path) -> None:
    values = tree()
    del values["cluster"]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"no section `cluster:`") as caught:
        read_request(str(tmp_path / "study.yaml"))
    assert "image: REGISTRY/hidfd@sha256:DIGEST" in str(caught.value)


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        ({"namespace": "studies"}, "cluster.image: missing; it has no default"),
        ({**SMALLEST, "imag": "x"}, "cluster.imag: unknown key; did you mean `image`?"),
        ({**SMALLEST, "namespace": "My_Studies"}, "(DNS-1123), found 'My_Studies'"),
        ({**SMALLEST, "namespace": "a" * 64}, "expected at most 63 of a-z"),
        ({**SMALLEST, "queue": "-x"}, "cluster.queue: expected at most 253 of a-z"),
        ({**SMALLEST, "driver": {"memory": "4GB"}}, "cluster.driver.memory: '4GB' is no quantity; expected a number"),
        ({**SMALLEST, "workers": {"gpu": {"gpu": 1}}}, "cluster.workers.gpu.gpu: unknown key; did you mean `gpus`?"),
        ({**SMALLEST, "workers": {"GPU": {}}}, "cluster.workers.GPU: expected at most 63"),
        ({**SMALLEST, "workers": {"gpu": {"count": 4, "max_count": 2}}}, "max_count: 2 is below count, which is 4"),
        ({**SMALLEST, "workers": {"gpu": {"count": 0}}}, "would be a group that never has a pod"),
        ({**SMALLEST, "driver": {"memory": "1Gi", "shared_memory": "2Gi"}}, "shared_memory: 2Gi is a part of memory"),
        ({**SMALLEST, "environment": {"DB_PASSWORD": "x"}}, "looks like a secret"),
        ({**SMALLEST, "environment": {"wandb_api_key": "x"}}, "looks like a secret"),
        ({**SMALLEST, "environment": {"MLFLOW_TRACKING_URI": "http://me:hunter2@mlflow"}}, "looks like a secret"),
        (
            {**SMALLEST, "environment": {"HIDFD_LEDGER": "postgresql://me:${WORD}@db/x"}},
            "${NAME} is not filled in there",
        ),
        ({**SMALLEST, "workers": {"driver": {}}}, "'driver' is the driver's own group"),
        ({**SMALLEST, "volumes": {"v" * 58: {"claim": "c", "mount_path": "/data"}}}, "57"),
        (
            {**SMALLEST, "secrets": {"A": {"secret": "s", "key": "k"}}, "environment": {"A": "1"}},
            "is given under environment as well",
        ),
        ({**SMALLEST, "volumes": {"data": {"claim": "c", "mount_path": "data/"}}}, "cluster.volumes.data.mount_path"),
        (
            {**SMALLEST, "volumes": {"a": {"claim": "c", "mount_path": "/a"}, "b": {"claim": "d", "mount_path": "/a"}}},
            "volumes.b.mount_path: /a is that of volumes.a; a folder can hold one claim only",
        ),
        (
            {**SMALLEST, "deadline_hours": 1, "keep_minutes": 30},
            "keep_minutes: with deadline_hours the study would go on for that time after its deadline",
        ),
        ({**SMALLEST, "driver": {"shared_memory": "0"}}, "driver.shared_memory: '0' is nothing; expected more than 0"),
        ({**SMALLEST, "driver": {"tolerations": [{"value": "x"}]}}, "without a key only Exists is possible"),
        ({**SMALLEST, "retries": -1}, "cluster.retries: expected greater than or equal to 0, found -1"),
    ],
)
def test_mistake_is_one_message_with_its_place(tmp_path: Path, cluster: dict[str, Any], says: str) -> None:
    message = refusal(tmp_path, cluster)
    assert says in message
    assert message.startswith("study.yaml:")
    assert len(message.splitlines()) == 1


def test_folders_that_all_pods_have_are_no_place_for_a_claim(tmp_path: Path) -> None:
    spec = render(request(tmp_path, {**SMALLEST, "workers": {"cpu": {}}})).ray_job["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    mounts = [mount for group in groups for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]]
    for place in {mount["mountPath"] for mount in mounts}:
        message = refusal(tmp_path, {**SMALLEST, "volumes": {"data": {"claim": "c", "mount_path": place}}})
        assert f"cluster.volumes.data.mount_path: {place} is the pods' own" in message
    request(tmp_path, {**SMALLEST, "volumes": {"data": {"claim": "c", "mount_path": f"{WORK_FOLDER}/data"}}})


def test_all_mistakes_are_told_at_once_with_those_of_overrides(tmp_path: Path) -> None:
    message = refusal(tmp_path, {**SMALLEST, "namespace": "X"}, "cluster.driver.cpus=none", "cluster.retrys=1")
    assert len(message.splitlines()) == 3
    assert "command line: cluster.retrys: unknown key; did you mean `retries`?" in message


@pytest.mark.parametrize("study", ["a" * 100, "2026_Pilot.v2", "X..Y", "0", "x."])
def test_every_study_name_gives_a_job_name_that_kuberay_takes(tmp_path: Path, study: str) -> None:
    name = render(request(tmp_path, SMALLEST, name=study)).name
    assert len(name) <= 47
    assert name[0].isalpha()
    assert name.replace("-", "").isalnum()
    assert name == name.lower()


def test_name_follows_from_all_that_is_asked_for_and_nothing_else(tmp_path: Path) -> None:
    name = render(request(tmp_path)).name
    assert render(request(tmp_path)).name == name
    assert render(request(tmp_path, None, "study.num_students=13")).name != name
    assert render(request(tmp_path, {**EVERYTHING, "image": "another"})).name != name


def test_nothing_of_this_machines_environment_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    monkeypatch.setenv("HIDFD_STORE", "/home/me/store")
    found = request(tmp_path)
    assert found.storage["store"] == "s3://bucket/hidfd"
    assert "hunter2" not in str(render(found))
    assert "/home/me" not in str(render(found))


def test_overrides_reach_the_driver_but_for_those_of_the_cluster(tmp_path: Path) -> None:
    spec = render(request(tmp_path, None, "study.num_students=3", "cluster.retries=1")).ray_job["spec"]
    assert spec["entrypoint"] == (
        "python -m tune run /etc/hidfd/study.yaml study.num_students=3 resources.autoscaling=true --json --wait"
    )
    assert spec["backoffLimit"] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["study.num_students=3", "study.concurrency=2"], ["study.concurrency=2", "study.num_students=3"]),
        (["cluster.retries=1", "cluster.drain_seconds=9"], ["cluster.drain_seconds=9", "cluster.retries=1"]),
        (["study.num_students=3", "study.num_students=4"], ["study.num_students=4"]),
        (["cluster.retries=2", "cluster.retries=1"], ["cluster.retries=1"]),
        (["study.pruner.kind=asha", "study.pruner={kind: none}"], ["study.pruner={kind: none}"]),
    ],
)
def test_overrides_that_ask_for_the_same_make_the_same_job(tmp_path: Path, one: list[str], other: list[str]) -> None:
    assert render(request(tmp_path, None, *one)).digest == render(request(tmp_path, None, *other)).digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["study.num_students=3", "study.num_students=4"], ["study.num_students=4", "study.num_students=3"]),
        (
            ["study.pruner={kind: none}", "study.pruner.kind=asha"],
            ["study.pruner.kind=asha", "study.pruner={kind: none}"],
        ),
    ],
)
def test_override_that_another_one_replaces_counts_by_its_place(
    tmp_path: Path, one: list[str], other: list[str]
) -> None:
    assert render(request(tmp_path, None, *one)).digest != render(request(tmp_path, None, *other)).digest


def test_overrides_reach_the_driver_in_the_order_in_which_they_were_typed(tmp_path: Path) -> None:
    typed = ["study.num_students=3", "study.concurrency=2"]
    assert " ".join(typed) in render(request(tmp_path, None, *typed)).ray_job["spec"]["entrypoint"]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["study.num_students=3"], "fashion-students-e0240bf4"),
        (["study.concurrency=2", "study.num_students=3"], "fashion-students-bbe8b886"),
    ],
)
def test_jobs_of_older_versions_keep_their_names_where_the_overrides_were_sorted(
    tmp_path: Path, overrides: list[str], name: str
) -> None:
    assert render(request(tmp_path, None, *overrides)).name == name
