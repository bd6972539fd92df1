"""How a trial's pages and pictures come to the driver's disk; the actor lives in this process, so that it can fail."""

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from tune.engines import results_sync as hand_over
from tune.engines.results_sync import HandOver, ResultsFolder

SAMPLE = "trial-1/samples/generation-8.png"


class Handle:
    """Of an actor that lives in this very process.

    Attributes:
        asked: names of methods.
        error: raised by the next requests instead of an answer.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None
        self._actor = ResultsFolder(str(folder))

    def __getattr__(self, name: str) -> SimpleNamespace:
        def remote(*arguments: Any) -> Callable[[], Any]:
            self.asked.append(name)
            return lambda: getattr(self._actor, name)(*arguments)

        return SimpleNamespace(remote=remote)


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    """The results on a worker's own disk."""
    (tmp_path / "worker/trial-1/samples").mkdir(parents=True)
    (tmp_path / "worker/trial-1/result.json").write_text("{}")
    (tmp_path / "worker" / SAMPLE).write_bytes(b"a picture")
    return tmp_path / "worker"


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    return tmp_path / "driver"


@pytest.fixture
def handle(driver: Path, monkeypatch: pytest.MonkeyPatch) -> Handle:
    made = Handle(driver)

    def get(answer: Callable[[], Any], timeout: float) -> Any:
        if made.error is not None:
            raise made.error
        return answer()

    monkeypatch.setattr(hand_over, "ray", SimpleNamespace(get=get, exceptions=ray.exceptions))
    return made


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def brings(worker: Path, handle: Handle, told: list[str]) -> HandOver:
    return HandOver(str(worker), handle, told.append)


def test_every_file_comes_once_and_again_when_it_has_changed(
    brings: HandOver, handle: Handle, worker: Path, driver: Path, told: list[str]
) -> None:
    brings.bring_file(worker / SAMPLE)
    assert (driver / SAMPLE).read_bytes() == b"a picture", "while the work goes on"
    brings.bring_all("trial-1")
    assert (driver / "trial-1/result.json").read_text() == "{}"
    assert handle.asked.count("take") == 2
    (worker / "trial-1/result.json").write_text("[]")
    brings.bring_all("trial-1")
    assert (driver / "trial-1/result.json").read_text() == "[]", "of a later attempt"
    assert sorted(path.name for path in driver.rglob("*") if path.is_file()) == ["generation-8.png", "result.json"]
    assert told == []


@pytest.mark.parametrize("by_file", [True, False])
def test_pictures_of_a_forgotten_study_of_that_name_go_with_the_first_file(
    brings: HandOver, worker: Path, driver: Path, by_file: bool
) -> None:
    for name in ("trial-1/samples/generation-900.png", "trial-1/pictures/real.png", "trial-2/pictures/real.png"):
        (driver / name).parent.mkdir(parents=True, exist_ok=True)
        (driver / name).write_bytes(b"of old")
    (driver / "trial-1/config.yaml").write_text("of old")
    (driver / "trial-1/notes.txt").write_text("somebody's own")
    (worker / "trial-1/config.yaml").write_text("of now")
    brings.bring_file(worker / SAMPLE) if by_file else brings.bring_all("trial-1")
    left = {str(path.relative_to(driver)) for path in driver.rglob("*") if path.is_file()} - {"trial-1/result.json"}
    assert left == {SAMPLE, "trial-1/config.yaml", "trial-1/notes.txt", "trial-2/pictures/real.png"}


def test_pictures_stay_when_task_goes_on_on_another_disk(
    brings: HandOver, handle: Handle, worker: Path, driver: Path, tmp_path: Path
) -> None:
    (worker / "trial-1/config.yaml").write_text("one")
    brings.bring_file(worker / SAMPLE)
    other = tmp_path / "other/trial-1"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("one")
    HandOver(str(other.parent), handle, pytest.fail).bring_all("trial-1")
    assert (driver / SAMPLE).exists(), "though that worker stopped before it drew anything"


def test_where_all_nodes_share_the_results_nothing_travels(worker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle(worker)
    answers = SimpleNamespace(get=lambda answer, timeout: answer(), exceptions=ray.exceptions)
    monkeypatch.setattr(hand_over, "ray", answers)
    HandOver(str(worker), handle, pytest.fail).bring_all("trial-1")
    assert "take" not in handle.asked
    assert (worker / SAMPLE).exists()


def test_task_that_writes_nothing_asks_nothing(brings: HandOver, handle: Handle) -> None:
    brings.bring_all("opening-1")
    assert handle.asked == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(),
        ray.exceptions.GetTimeoutError(),
        ray.exceptions.RayActorError(),
        ray.exceptions.RayTaskError("take", "Traceback\nOSError: No space left on device", OSError("full")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_come_is_told_once_and_the_task_goes_on(
    brings: HandOver, handle: Handle, worker: Path, told: list[str], error: Exception
) -> None:
    handle.error = error
    for _ in range(3):
        brings.bring_file(worker / SAMPLE)
    assert handle.asked == ["lacks"], "training does not wait again for what does not answer"
    brings.bring_all("trial-1")
    (words,) = told
    assert words.startswith("pages and pictures do not reach the driver's node, so MLflow may lack them: ")
    assert not words.endswith(": ")


def test_folder_that_cannot_be_listed_is_told_too(
    brings: HandOver, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    def stale(_: Path) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "is_file", stale)
    brings.bring_all("trial-1")
    assert "Stale file handle" in told[0]


def test_file_that_could_not_be_written_whole_leaves_the_last_one(
    brings: HandOver, worker: Path, driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brings.bring_all("trial-1")
    (worker / "trial-1/result.json").write_text("[1, 2, 3]")

    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    brings.bring_all("trial-1")
    assert (driver / "trial-1/result.json").read_text() == "{}"
