"""The connections that the NetworkPolicies allow, worked out here as a network plugin would."""

import ipaddress
from typing import Any, NamedTuple

import pytest

from tests.charts.rendering import CASES, NAMESPACE, case_objects, objects, one

Labels = dict[str, str]

PARTS = ("head", "worker", "submitter", "mlflow", "database", "test")


class End(NamedTuple):
    """An end of a connection: a pod by its labels and its namespace, or an address outside."""

    labels: Labels
    namespace: str = NAMESPACE
    address: str | None = None


OPERATOR = End({"app.kubernetes.io/name": "kuberay-operator"}, "kuberay-system")

STRANGER = End({"app": "else"})

DNS = End({"k8s-app": "kube-dns"}, "kube-system")


def part(name: str) -> End:
    """A pod as `k8s submit` makes it: of this namespace, and with the label of its part only."""
    return End({"hidfd/part": name})


def matches(selector: dict[str, Any], labels: Labels) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        match rule["operator"]:
            case "In":
                if labels.get(rule["key"]) not in rule["values"]:
                    return False
            case operator:
                raise AssertionError(operator)
    return True


def is_peer(peer: dict[str, Any], end: End) -> bool:
    if "ipBlock" in peer:
        if end.address is None:
            return False
        network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return ipaddress.ip_address(end.address) in network
    if end.address is not None:
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace}):
            return False
    elif end.namespace != NAMESPACE:
        return False
    return matches(peer.get("podSelector", {}), end.labels)


def allows(policies: list[dict[str, Any]], direction: str, here: End, there: End, port: int) -> bool:
    """Whether the rules for one end let the connection pass; pods that no policy selects are free."""
    if here.address is not None or here.namespace != NAMESPACE:
        return True
    chosen = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"] and matches(policy["spec"]["podSelector"], here.labels)
    ]
    key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    for spec in chosen:
        for rule in spec.get(key, []):
            assert rule[peers], "an empty list of peers allows all"
            ports = {item["port"] for item in rule.get("ports", [])}
            if (not ports or port in ports) and any(is_peer(peer, there) for peer in rule[peers]):
                return True
    return not chosen


def reaches(case: str, source: End, target: End, port: int) -> bool:
    policies = [item for item in case_objects(case) if item["kind"] == "NetworkPolicy"]
    return allows(policies, "Egress", source, target, port) and allows(policies, "Ingress", target, source, port)


def who_reaches(case: str, target: End, port: int) -> set[str]:
    ends = {name: part(name) for name in PARTS} | {"operator": OPERATOR, "stranger": STRANGER}
    return {name for name, end in ends.items() if end != target and reaches(case, end, target, port)}


FENCED = [case for case in CASES if case != "minimal"]


@pytest.mark.parametrize("case", [case for case in FENCED if case != "external"])
def test_database_is_reached_by_mlflow_head_and_test_only(case: str) -> None:
    assert who_reaches(case, part("database"), 5432) == {"mlflow", "head", "test"}


@pytest.mark.parametrize("case", FENCED)
def test_mlflow_is_reached_by_head_and_test_only(case: str) -> None:
    assert who_reaches(case, part("mlflow"), 5000) == {"head", "test"}


@pytest.mark.parametrize("case", FENCED)
def test_ray_s_pods_reach_each_other_on_any_port(case: str) -> None:
    for port in (6379, 8265, 10001, 23456):
        for target in ("head", "worker"):
            others = {"head", "worker", "submitter"} - {target}
            assert who_reaches(case, part(target), port) - {"operator"} == others


@pytest.mark.parametrize("case", FENCED)
def test_operator_reaches_the_dashboard_of_heads_and_nothing_else(case: str) -> None:
    assert reaches(case, OPERATOR, part("head"), 8265)
    assert not reaches(case, OPERATOR, part("head"), 6379)
    assert not reaches(case, OPERATOR, part("worker"), 8265)
    assert not reaches(case, End({"app": "x"}, OPERATOR.namespace), part("head"), 8265)


def test_operator_is_known_by_its_namespace_where_that_is_named() -> None:
    elsewhere = End(OPERATOR.labels, "of-a-stranger")
    assert reaches("default", elsewhere, part("head"), 8265)
    assert not reaches("everything", elsewhere, part("head"), 8265)


@pytest.mark.parametrize("case", FENCED)
def test_all_but_the_database_find_names(case: str) -> None:
    found = {name for name in PARTS if reaches(case, part(name), DNS, 53)}
    assert found == set(PARTS) - {"database"}
    assert not reaches(case, part("head"), DNS, 443)


@pytest.mark.parametrize("address", ["10.30.0.7", "93.184.216.34", "2606:2800::1"])
def test_nothing_outside_is_reached_where_storage_is_a_claim(address: str) -> None:
    for name in PARTS:
        assert not reaches("default", part(name), End({}, address=address), 443)


def test_external_s3_and_database_are_reached_where_they_are_by_who_needs_them() -> None:
    s3, database = End({}, address="10.30.0.7"), End({}, address="10.20.0.7")
    assert {name for name in PARTS if reaches("external", part(name), s3, 443)} == {"head", "worker", "mlflow", "test"}
    assert {name for name in PARTS if reaches("external", part(name), database, 6432)} == {"head", "mlflow", "test"}
    assert not reaches("external", part("head"), End({}, address="10.99.0.7"), 443)
    assert not reaches("external", part("worker"), database, 6432)


@pytest.mark.parametrize(
    ("endpoint", "named", "port"),
    [
        ("", 0, 443),
        ("https://s3.example.org", 0, 443),
        ("http://s3.storage", 0, 80),
        ("http://versitygw.storage:7070", 0, 7070),
        ("http://[fd00::1]:9000", 0, 9000),
        ("http://[fd00::1]", 0, 80),
        ("http://versitygw.storage:80", 7070, 7070),
    ],
)
def test_s3_is_reached_at_the_port_of_its_address_unless_another_is_named(endpoint: str, named: int, port: int) -> None:
    s3 = {"bucket": "studies", "endpoint": endpoint}
    found = objects({"storage": {"kind": "s3", "s3": s3}, "networkPolicies": {"s3": {"port": named}}})
    (rule,) = one(found, "NetworkPolicy", "hidfd-to-s3")["spec"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": port}]


def test_api_server_is_reached_by_heads_and_the_test_of_crds_where_it_is_named() -> None:
    server = End({}, address="10.0.0.1")
    assert {name for name in PARTS if reaches("spot", part(name), server, 6443)} == {"head", "test"}
    assert not {name for name in PARTS if reaches("default", part(name), server, 6443)}


def test_ingress_and_prometheus_come_in_where_they_are_named() -> None:
    proxy, prometheus = End({"app": "proxy"}, "ingress"), End({"app": "prometheus"}, "monitoring")
    assert reaches("everything", proxy, part("mlflow"), 5000)
    assert not reaches("everything", End({"app": "else"}, "ingress"), part("mlflow"), 5000)
    assert not reaches("default", proxy, part("mlflow"), 5000)
    assert reaches("everything", prometheus, part("worker"), 8080)
    assert not reaches("everything", prometheus, part("database"), 8080)
    assert not reaches("default", prometheus, part("worker"), 8080)


def test_other_pods_of_the_namespace_are_left_alone() -> None:
    assert reaches("default", STRANGER, End({"app": "third"}), 80)
    assert not {item["kind"] for item in case_objects("minimal")} & {"NetworkPolicy"}
