"""Pods' logs: every line once, whatever happens to the connection."""

from __future__ import annotations

import pytest

from k8s.client import Api
from k8s.errors import Unreachable
from k8s.job.logs import ContainerLog, PodLogs
from tests.k8s.api_server import DROP, ApiServer
from tests.k8s.conftest import NAMESPACED

POD = f"{NAMESPACED}/pods/driver"


def stamped(second: float, words: str) -> str:
    return f"2026-11-28T12:00:{second:012.9f}Z {words}"


@pytest.fixture
def log(server: ApiServer) -> ContainerLog:
    server.logs[POD] = [stamped(1.0, "a"), stamped(1.5, "b"), stamped(1.5, "c")]
    return ContainerLog(POD, "ray-job-submitter")


def test_lines_come_once_also_where_several_share_a_second(log: ContainerLog, server: ApiServer, api: Api) -> None:
    assert log.read_new(api) == ["a", "b", "c"]
    assert log.read_new(api) == []
    server.logs[POD] += [stamped(1.5, "d"), stamped(1.7, "e"), stamped(2.0, "a")]
    assert log.read_new(api) == ["d", "e", "a"]
    assert log.read_new(api) == []


def test_server_is_asked_only_for_what_came_since(log: ContainerLog, server: ApiServer, api: Api) -> None:
    log.read_new(api)
    log.read_new(api)
    assert "sinceTime=2026-11-28T12%3A00%3A01Z" in server.asked[-1][1]


def test_stamps_without_trailing_zeros_sort_as_the_others(server: ApiServer, api: Api) -> None:
    server.logs[POD] = ["2026-11-28T12:00:01.1Z a", "2026-11-28T12:00:01.12Z b", "2026-11-28T12:00:01Z zero"]
    log = ContainerLog(POD, "c")
    assert sorted(log.read_new(api)) == ["a", "b", "zero"]
    server.logs[POD] += ["2026-11-28T12:00:01.125Z c"]
    assert log.read_new(api) == ["c"]


@pytest.mark.parametrize("zone", ["+08:00", "-05:00"])
def test_stamps_of_a_node_in_another_zone_are_the_same_moments(server: ApiServer, api: Api, zone: str) -> None:
    server.logs[POD] = [f"2026-11-28T12:00:01.5{zone} a"]
    log = ContainerLog(POD, "c")
    assert log.read_new(api) == ["a"]
    server.logs[POD] += [f"2026-11-28T12:00:02.5{zone} b"]
    assert log.read_new(api) == ["b"]


def test_line_that_draws_over_itself_is_one_line(server: ApiServer, api: Api) -> None:
    server.logs[POD] = ["2026-11-28T12:00:01Z 10%\r20%\r100% done"]
    assert ContainerLog(POD, "c").read_new(api) == ["10%\r20%\r100% done"]


@pytest.mark.parametrize("fault", [DROP, 410, 503, 429])
def test_nothing_is_lost_over_a_broken_connection(log: ContainerLog, server: ApiServer, api: Api, fault: int) -> None:
    assert len(log.read_new(api)) == 3
    server.logs[POD] += [stamped(3.0, "meanwhile")]
    server.faults = [fault]
    with pytest.raises(Unreachable):
        log.read_new(api)
    assert log.read_new(api) == ["meanwhile"]


@pytest.mark.parametrize("fault", [404, 400])
def test_container_that_is_not_there_yet_has_no_lines(
    log: ContainerLog, server: ApiServer, api: Api, fault: int
) -> None:
    server.faults = [fault]
    assert log.read_new(api) == []
    assert log.read_new(api) == ["a", "b", "c"]


def test_pods_of_two_tries_have_logs_of_their_own(server: ApiServer, api: Api) -> None:
    pods = [
        {"metadata": {"name": name, "uid": name}, "spec": {"containers": [{"name": "c"}]}} for name in ("one", "two")
    ]
    server.logs |= {f"{NAMESPACED}/pods/{name}": [stamped(1.0, name)] for name in ("one", "two")}
    logs = PodLogs("studies")
    assert logs.read_new(pods[:1], api) == [("one", "one")]
    assert logs.read_new(pods, api) == [("two", "two")]
