"""A study ends where the Ray that it has started dies, whatever its main thread waits for."""

from __future__ import annotations

import atexit
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from tune.engines import own_ray
from tune.engines.own_ray import ending_with_ray
from tune.errors import EngineError

DEAF = """
import signal, time
from tune.engines import own_ray

class Node:
    def kill_all_processes(self, **how):
        print("killed", how)

own_ray.ray_worker._global_node = Node()
own_ray._died = lambda: ["gcs_server"]
own_ray.LOOK_EVERY_SECONDS, own_ray.LEAVE_SECONDS = 0.05, 0.2
with own_ray.ending_with_ray():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    time.sleep(60)
"""


@pytest.fixture
def died(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The processes of Ray that have died, as a list to fill."""
    names: list[str] = []
    monkeypatch.setattr(own_ray, "_died", lambda: names)
    monkeypatch.setattr(own_ray, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(own_ray, "LEAVE_SECONDS", 5.0)
    return names


def record_shutdowns(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any] = lambda: None) -> list[float]:
    called: list[float] = []

    def shutdown() -> None:
        called.append(time.monotonic())
        action()

    monkeypatch.setattr(ray, "shutdown", shutdown)
    return called


def use_ray(action: Callable[[], Any] = lambda: None) -> None:
    with ending_with_ray():
        action()


def fail() -> None:
    raise ZeroDivisionError


def test_wait_for_a_ray_that_has_died_ends_with_a_message(died: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shut_down = record_shutdowns(monkeypatch)

    def wait_as_ray_tune_does() -> None:
        died.append("raylet")
        for _ in range(60):
            with suppress(Exception):
                time.sleep(60)

    with pytest.raises(EngineError, match="raylet, which starts the workers, has died") as raised:
        use_ray(wait_as_ray_tune_does)
    assert raised.value.exit_code == 10
    assert "the same command goes on" in str(raised.value)
    assert len(shut_down) == 1


def test_rest_of_a_ray_that_has_died_is_killed_before_it_is_shut_down(
    died: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    node = SimpleNamespace(kill_all_processes=lambda **_: calls.append("killed"))
    monkeypatch.setattr(own_ray.ray_worker, "_global_node", node)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shut down"))
    use_ray()
    assert calls == ["shut down"], "a Ray that lives ends by itself"
    died.append("raylet")
    with pytest.raises(EngineError):
        use_ray(fail)
    assert calls == ["shut down", "killed", "shut down"]


def test_error_that_followed_from_a_dead_ray_is_not_the_message(
    died: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record_shutdowns(monkeypatch)
    died.append("gcs_server")
    with pytest.raises(EngineError, match="gcs_server, which knows where everything is, has died"):
        use_ray(fail)


@pytest.mark.usefixtures("died")
def test_error_of_a_ray_that_lives_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shut_down = record_shutdowns(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        use_ray(fail)
    use_ray()
    assert len(shut_down) == 2


def test_shutting_down_a_dead_ray_has_a_limit(died: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    at_exit: list[tuple[Any, ...]] = []
    monkeypatch.setattr(atexit, "register", lambda *given: at_exit.append(given))
    record_shutdowns(monkeypatch, lambda: time.sleep(3.0))
    began = time.monotonic()
    monkeypatch.setattr(own_ray, "LEAVE_SECONDS", 0.2)
    died.append("raylet")
    with pytest.raises(EngineError):
        use_ray(fail)
    assert time.monotonic() - began < 2.0
    assert [code for _, code in at_exit] == [10], "what Ray does at the end of the process is left out"


def test_process_whose_main_thread_hears_nothing_is_ended_with_the_same_message() -> None:
    done = subprocess.run([sys.executable, "-c", DEAF], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 10
    assert done.stdout == "killed {'check_alive': False, 'allow_graceful': False}\n", "before the process ends"
    assert done.stderr.startswith("error: the Ray that this study had started is gone: gcs_server")
