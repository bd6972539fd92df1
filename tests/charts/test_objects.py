"""The rendered objects are valid everywhere, the same every time, and without a secret."""

import base64
import functools
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, lint, package

from tests.charts.rendering import CASES, CHART, NAMESPACE, case_objects, chart, objects, one, pods, render, values_of

VERSIONS = [f"1.{minor}" for minor in range(28, 37)]

CUSTOM = {"RayCluster", "PodMonitor"}
"""Kinds whose schemas are in CRDs, which the tests of k8s have."""


def unlike(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the distinct objects of all values files, so that each is validated once."""
    return list({yaml.safe_dump(item): item for item in found}.values())


@pytest.fixture
def _schemas_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = functools.cache(kubernetes_validate.utils.schema_contents)
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", read)


@pytest.mark.usefixtures("_schemas_are_read_once")
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_of_every_values_file_is_valid_in_kubernetes(version: str) -> None:
    found = unlike([item for case in CASES for item in case_objects(case) if item["kind"] not in CUSTOM])
    assert len(found) > 40
    for item in found:
        kubernetes_validate.validate(item, version, strict=True)


def test_there_are_values_files_for_what_people_have() -> None:
    assert len(CASES) >= 8
    assert {"default", "minimal", "gpu", "spot", "kueue", "external", "everything", "laptop"} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_names_are_unique_and_every_object_is_labelled(case: str) -> None:
    found = case_objects(case)
    names = [(item["kind"], item["metadata"]["name"]) for item in found]
    assert len(set(names)) == len(names)
    for item in found:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "hidfd"
        assert labels["app.kubernetes.io/instance"] == "hidfd"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert "namespace" not in item["metadata"], "Helm puts it where the release is"


def test_own_labels_are_on_every_object_and_pod() -> None:
    found = case_objects("everything")
    for item in [*found, *pods(found).values()]:
        assert item["metadata"]["labels"]["cost-centre"] == "4711"


@pytest.mark.parametrize("case", CASES)
def test_two_renders_are_the_same_byte_by_byte_but_for_the_drawn_password(case: str) -> None:
    password = re.compile(r"^  password: .*$", re.MULTILINE)
    first, second = ({name: password.sub("", text) for name, text in render(values_of(case)).items()} for _ in range(2))
    assert first == second


@pytest.mark.parametrize("case", CASES)
def test_no_object_holds_a_secret_but_the_drawn_password(case: str) -> None:
    found = case_objects(case)
    secrets = [item for item in found if item["kind"] == "Secret"]
    drawn = case in ("default", "gpu", "spot", "kueue", "laptop")
    assert len(secrets) == drawn
    for item in secrets:
        password = base64.b64decode(item["data"]["password"]).decode()
        assert re.fullmatch(r"[A-Za-z0-9]{32}", password)
        elsewhere = yaml.safe_dump([other for other in found if other is not item])
        assert password not in elsewhere
        assert item["data"]["password"] not in elsewhere
    for name, pod in pods(found).items():
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            for variable in container.get("env", []):
                if re.search("PASSWORD|SECRET|KEY", variable["name"]):
                    assert set(variable["valueFrom"]) == {"secretKeyRef"}, name
            for value in container.get("command", []):
                assert not re.search(r"://[^/]*@", value), f"{name}: an address with a password"


def test_names_are_those_that_submitting_studies_relies_on() -> None:
    found = case_objects("laptop")
    names = {(item["kind"], item["metadata"]["name"]) for item in found}
    assert {
        ("ServiceAccount", "hidfd-driver"),
        ("ServiceAccount", "hidfd-worker"),
        ("ServiceAccount", "hidfd-mlflow"),
        ("ServiceAccount", "hidfd-database"),
        ("Service", "hidfd-mlflow"),
        ("Service", "hidfd-database"),
        ("Secret", "hidfd-database"),
        ("PersistentVolumeClaim", "hidfd-store"),
        ("RayCluster", "hidfd"),
        ("Role", "hidfd-submitter"),
    } <= names
    assert set(one(found, "Secret", "hidfd-database")["data"]) == {"username", "password", "database", "host", "port"}


@pytest.mark.parametrize(
    ("release", "name"),
    [("hidfd", "hidfd"), ("my-hidfd", "my-hidfd"), ("lab", "lab-hidfd"), (f"{'x' * 39}-lab", "x" * 39)],
)
def test_names_begin_with_the_release(release: str, name: str) -> None:
    found = objects(values_of("laptop"), release)
    one(found, "RayCluster", name)
    assert all(item["metadata"]["name"].startswith(name) for item in found)


def test_a_large_user_id_is_a_whole_number() -> None:
    server = one(objects({"database": {"userId": 1000650000}}), "StatefulSet", "hidfd-database")
    assert repr(server["spec"]["template"]["spec"]["securityContext"]["runAsUser"]) == "1000650000"


def test_release_s_name_is_a_string_wherever_it_is_used() -> None:
    for item in objects(values_of("laptop"), "on"):
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "on"


def test_what_holds_data_outlives_the_release() -> None:
    found = case_objects("default")
    for kind, name in (("PersistentVolumeClaim", "hidfd-store"), ("Secret", "hidfd-database")):
        assert one(found, kind, name)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    external = {item["kind"] for item in case_objects("external")}
    assert not external & {"PersistentVolumeClaim", "StatefulSet", "Secret"}


def test_helm_s_own_linter_has_nothing_to_say() -> None:
    for case in CASES:
        report = lint(CHART, values_of(case), strict=True, quiet=True)
        said = [item for item in report["messages"] if item["error"] != "icon is recommended"]
        assert (report["errors"], said) == ([], [])


def test_packed_chart_renders_the_same(tmp_path: Path) -> None:
    with Chart.load(package(CHART, destination=tmp_path)) as packed:
        assert render(values_of("everything"), of=packed) == render(values_of("everything"))


def test_chart_needs_kubernetes_1_28_and_no_other_chart() -> None:
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert metadata["kubeVersion"] == ">=1.28.0-0"
    assert "dependencies" not in metadata
    assert chart().name == "hidfd"


@pytest.mark.parametrize(
    ("case", "is_said"),
    [("default", True), ("kueue", True), ("spot", False), ("everything", False), ("minimal", False)],
)
def test_notes_say_what_a_growing_study_needs_where_the_api_server_is_out_of_reach(case: str, is_said: bool) -> None:
    notes = render(values_of(case))["hidfd/templates/NOTES.txt"]
    assert ("max_count" in notes and "networkPolicies.apiServer.to" in notes) is is_said


def test_notes_say_how_to_submit_watch_open_and_resume() -> None:
    notes = render(values_of("laptop"))["hidfd/templates/NOTES.txt"]
    for words in (
        "python -m k8s submit",
        "python -m k8s watch",
        f"helm test hidfd -n {NAMESPACE}",
        f"kubectl port-forward -n {NAMESPACE} service/hidfd-mlflow 5000",
        "ray job submit --address http://localhost:8265",
        "then submit again",
        "store: /mnt/hidfd/store",
    ):
        assert words in notes
    assert "RAY_AUTH_TOKEN" in notes
    assert "ledger: postgresql://USER:${DB_PASSWORD}@HOST" in notes
    assert "secrets: {DB_PASSWORD: {secret: hidfd-database, key: password}}" in notes
    short = render(values_of("minimal"))["hidfd/templates/NOTES.txt"]
    assert "ray job submit" not in short
    assert "mlflow" not in short
