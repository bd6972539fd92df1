"""The values: which the schema knows, which it refuses, and their descriptions in the README."""

import importlib.util
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from helm_python import HelmValuesError

from tests.charts.rendering import CASES, CHART, RELEASE, chart, objects, values_of

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())

FREE = {"nodeSelector", "annotations", "labels", "workerGroups"}
"""Maps whose keys the user chooses."""

_SPEC = importlib.util.spec_from_file_location("charts_readme", CHART.parent / "readme.py")
assert _SPEC
assert _SPEC.loader
readme = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(readme)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    return schema


def keys_of_values(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict) and key not in FREE:
            yield from keys_of_values(value, (*path, key))


def keys_of_schema(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in resolved(schema).get("properties", {}).items():
        yield (*path, key)
        yield from keys_of_schema(value, (*path, key))


def objects_in(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            yield schema
        for value in schema.values():
            yield from objects_in(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects_in(value)


def test_values_and_schema_name_the_same_keys() -> None:
    of_schema = set(keys_of_schema(SCHEMA)) - {("global",)}  # which Helm hands to a chart inside another one
    assert set(keys_of_values(VALUES)) == of_schema


def test_schema_knows_every_key_of_every_object() -> None:
    found = list(objects_in(SCHEMA))
    assert len(found) > 20
    assert all(item["additionalProperties"] is False for item in found)


def test_schema_misses_every_key_that_null_takes_away() -> None:
    def sections(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield schema
        for value in schema["properties"].values():
            if "properties" in value:
                yield from sections(value)

    for section in sections(SCHEMA):
        assert set(section["required"]) == set(section["properties"]) - {"global"}


def test_every_value_has_its_comment() -> None:
    lines = list(readme.lines((CHART / "values.yaml").read_text()))
    assert [line.path for line in lines if not line.comment] == []
    documented = {tuple(line.path.split(".")) for line in lines}
    leaves = {
        path for path in keys_of_values(VALUES) if not any(other[:-1] == path for other in keys_of_values(VALUES))
    }
    assert documented == leaves


def test_readme_is_up_to_date() -> None:
    text = (CHART / "README.md").read_text()
    assert readme.with_table(text, (CHART / "values.yaml").read_text()) == text, "run python charts/readme.py"


def test_readme_links_to_values_files_that_are_there() -> None:
    text = (CHART / "README.md").read_text()
    assert set(CASES) - {"default", "minimal"} == {case for case in CASES if f"(ci/{case}-values.yaml)" in text}


@pytest.mark.parametrize("case", CASES)
def test_values_files_say_nothing_that_is_the_default(case: str) -> None:
    def same(tree: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
        found = [key for key, value in tree.items() if value == defaults.get(key) and not isinstance(value, dict)]
        for key, value in tree.items():
            if isinstance(value, dict) and isinstance(defaults.get(key), dict):
                found += same(value, defaults[key])
        return found

    assert same(values_of(case), VALUES) == []


@pytest.mark.parametrize(
    "values",
    [
        {"mlfow": {"enabled": False}},
        {"mlflow": {"enable": False}},
        {"mlflow": {"enabled": "no"}},
        {"database": {"password": "word"}},
        {"database": {"kind": "mysql"}},
        {"database": {"mlflowName": 'm"; DROP'}},
        {"storage": {"s3": {"secretKey": "word"}}},
        {"storage": {"s3": {"endpoint": "https://me:word@s3.example.org"}}},
        {"storage": {"claim": {"size": "lots"}}},
        {"image": {"digest": "sha256:short"}},
        {"imagePullSecrets": [{"name": "registry"}]},
        {"rayCluster": {"workerGroups": {"gpu": {"gpu": 1}}}},
        {"rayCluster": {"workerGroups": {"gpu": {"gpus": "one"}}}},
        {"rayCluster": {"workerGroups": {"GPU": {}}}},
        {"rayCluster": {"workerGroups": {"gpu": {"maxReplicas": -1}}}},
        {"rayCluster": {"drainSeconds": -1}},
        {"rayCluster": {"rayVersion": "latest"}},
        {"networkPolicies": {"s3": {"to": []}}},
        {"networkPolicies": {"s3": {"to": None}}},
        {"networkPolicies": {"database": {"to": []}}},
        {"networkPolicies": {"monitoring": {"from": []}}},
        {"networkPolicies": {"mlflow": {"from": [{}]}}},
        {"submitter": {"subjects": [{"kind": "Robot", "name": "r"}]}},
        {"mlflow": {"allowedOrigins": ["mlflow.example.org"]}},
        {"database": {"tolerations": [{"keys": "a"}]}},
        {"storage": {"s3": {"endpoint": "http://a\n- name: EVIL"}}},
        {"storage": {"s3": {"endpoint": "http://a #b"}}},
        {"mlflow": {"allowedOrigins": ["http://a\nenvFrom: []"]}},
        {"mlflow": {"allowedOrigins": ["http://a #b"]}},
        *({"labels": {key: "mine"}} for key in ("hidfd/part", "app.kubernetes.io/name", "helm.sh/chart")),
        {"labels": {"kueue.x-k8s.io/queue-name": "mine"}},
        {"monitoring": {"labels": {"app.kubernetes.io/name": "mine"}}},
    ],
)
def test_schema_refuses(values: dict[str, Any]) -> None:
    with pytest.raises(HelmValuesError):
        chart().render(values=values, name=RELEASE)


PLAIN = "plain"


def takes(schema: dict[str, Any], word: str) -> bool:
    """Whether a value may be this string."""
    schema = resolved(schema)
    if "anyOf" in schema:
        return any(takes(option, word) for option in schema["anyOf"])
    return schema.get("type") == "string" and bool(re.search(schema.get("pattern", ""), word))


def filled(schema: dict[str, Any], word: str, other: str, but: str) -> dict[str, Any]:
    """Values with a word wherever the schema takes it and another one alike, but for a key."""
    found: dict[str, Any] = {}
    for key, value in resolved(schema)["properties"].items():
        if "properties" in resolved(value):
            found[key] = filled(value, word, other, but)
        elif key != but:
            item = resolved(value).get("items", value)
            for frame in ("{}", "http://{}:"):
                if takes(item, frame.format(word)) and takes(item, frame.format(other)):
                    found[key] = frame.format(word) if item is value else [frame.format(word)]
                    break
    return found


def over(above: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    both = {key: over(above[key], below[key]) for key in above.keys() & below.keys() if isinstance(above[key], dict)}
    return below | above | both


def with_word(tree: Any, word: str) -> Any:
    """Replace the plain word in a parsed document."""
    match tree:
        case dict():
            return {with_word(key, word): with_word(value, word) for key, value in tree.items()}
        case list():
            return [with_word(value, word) for value in tree]
        case str():
            return tree.replace(PLAIN, word)
    return tree


@pytest.mark.parametrize("word", ["2024", "on", "1e3", "null", "0x1f"])
@pytest.mark.parametrize(("case", "but"), [("everything", ""), ("everything", "existingClaim"), ("external", "")])
def test_no_string_becomes_a_number_or_a_key_of_its_own(case: str, but: str, word: str) -> None:
    def rendered(word: str, other: str) -> list[dict[str, Any]]:
        values = over(filled(SCHEMA, word, other, but), values_of(case))
        values["database"]["image"]["tag"] = "17"
        return objects(values)

    assert rendered(word, PLAIN) == with_word(rendered(PLAIN, word), word)


def rights(role: dict[str, Any]) -> set[tuple[str, str]]:
    return {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}


FORWARDING = {("pods/portforward", "create"), ("services", "get")}
"""Requests of `kubectl port-forward service/...` beside reading pods."""

KUEUE = {("localqueues", "get"), ("workloads", "list")}


def test_submitters_may_do_what_submitting_needs_and_nothing_more() -> None:
    (role,) = [item for item in objects(values_of("everything")) if item["kind"] == "Role"]
    assert rights(role) == {
        *(("rayjobs", verb) for verb in ("create", "get", "list", "delete")),
        *(("configmaps", verb) for verb in ("create", "get", "patch", "delete")),
        *((resource, verb) for resource in ("rayclusters", "pods") for verb in ("get", "list")),
        *((resource, "get") for resource in ("persistentvolumeclaims", "serviceaccounts")),
        *((resource, "list") for resource in ("resourcequotas", "limitranges", "networkpolicies")),
        ("pods/log", "get"),
        *FORWARDING,
        *KUEUE,
        ("events", "list"),
        ("namespaces", "get"),
        *(("jobs", verb) for verb in ("create", "get", "delete")),
        ("secrets", "get"),
    }
    (secrets,) = [rule for rule in role["rules"] if rule["resources"] == ["secrets"]]
    assert secrets["resourceNames"] == ["own-database", "teacher-registry"]
    (binding,) = [item for item in objects(values_of("everything")) if item["kind"] == "RoleBinding"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == ["researchers", "nightly"]
    assert not [item for item in objects(values_of("default")) if item["kind"] == "RoleBinding"]
    (less,) = [item for item in objects({"submitter": {"portForward": False}}) if item["kind"] == "Role"]
    assert not rights(less) & (FORWARDING | KUEUE), "who has no Kueue may not give its rights away"


def test_nothing_is_allowed_beyond_the_namespace_but_to_look_for_two_crds() -> None:
    (role,) = [item for item in objects(values_of("everything")) if item["kind"] == "ClusterRole"]
    assert role["rules"] == [
        {
            "apiGroups": ["apiextensions.k8s.io"],
            "resources": ["customresourcedefinitions"],
            "resourceNames": ["rayclusters.ray.io", "rayjobs.ray.io"],
            "verbs": ["get"],
        }
    ]
    for case in set(CASES) - {"everything"}:
        assert not [item for item in objects(values_of(case)) if item["kind"].startswith("ClusterRole")]
