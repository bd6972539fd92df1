"""Upload of a trial's pages and pictures; the receiving actor is in this process, so that it can fail."""

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from tune.engines import results_sync
from tune.engines.results_sync import ResultsReceiver, ResultsUploader

SAMPLE = "trial-1/samples/generation-8.png"


class Handle:
    """A double of a handle whose actor is in this process.

    Attributes:
        called: names of methods, in order.
        error: raised by the next calls instead of an answer.
    """

    def __init__(self, folder: Path) -> None:
        self.called: list[str] = []
        self.error: Exception | None = None
        self._actor = ResultsReceiver(str(folder))

    def __getattr__(self, name: str) -> SimpleNamespace:
        def remote(*arguments: Any) -> Callable[[], Any]:
            self.called.append(name)
            return lambda: getattr(self._actor, name)(*arguments)

        return SimpleNamespace(remote=remote)


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    """The results folder on a worker's own disk."""
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

    monkeypatch.setattr(results_sync, "ray", SimpleNamespace(get=get, exceptions=ray.exceptions))
    return made


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def uploader(worker: Path, handle: Handle, notes: list[str]) -> ResultsUploader:
    return ResultsUploader(str(worker), handle, notes.append)


def test_every_file_is_uploaded_once_and_again_when_it_has_changed(
    uploader: ResultsUploader, handle: Handle, worker: Path, driver: Path, notes: list[str]
) -> None:
    uploader.upload_file(worker / SAMPLE)
    assert (driver / SAMPLE).read_bytes() == b"a picture", "while the work goes on"
    uploader.upload_folder("trial-1")
    assert (driver / "trial-1/result.json").read_text() == "{}"
    assert handle.called.count("write") == 2
    (worker / "trial-1/result.json").write_text("[]")
    uploader.upload_folder("trial-1")
    assert (driver / "trial-1/result.json").read_text() == "[]", "of a later attempt"
    assert sorted(path.name for path in driver.rglob("*") if path.is_file()) == ["generation-8.png", "result.json"]
    assert notes == []


@pytest.mark.parametrize("by_file", [True, False])
def test_pictures_and_rows_of_a_forgotten_study_of_that_name_go_with_the_first_file(
    uploader: ResultsUploader, worker: Path, driver: Path, by_file: bool
) -> None:
    for name in ("trial-1/samples/generation-900.png", "trial-1/pictures/real.png", "trial-2/pictures/real.png"):
        (driver / name).parent.mkdir(parents=True, exist_ok=True)
        (driver / name).write_bytes(b"of old")
    (driver / "trial-1/config.yaml").write_text("of old")
    (driver / "trial-1/metrics.jsonl").write_text("of old")
    (driver / "trial-1/notes.txt").write_text("somebody's own")
    (worker / "trial-1/config.yaml").write_text("of now")
    uploader.upload_file(worker / SAMPLE) if by_file else uploader.upload_folder("trial-1")
    left = {str(path.relative_to(driver)) for path in driver.rglob("*") if path.is_file()} - {"trial-1/result.json"}
    assert left == {SAMPLE, "trial-1/config.yaml", "trial-1/notes.txt", "trial-2/pictures/real.png"}


def test_pictures_stay_when_task_goes_on_on_another_disk(
    uploader: ResultsUploader, handle: Handle, worker: Path, driver: Path, tmp_path: Path
) -> None:
    (worker / "trial-1/config.yaml").write_text("one")
    uploader.upload_file(worker / SAMPLE)
    other = tmp_path / "other/trial-1"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("one")
    ResultsUploader(str(other.parent), handle, pytest.fail).upload_folder("trial-1")
    assert (driver / SAMPLE).exists(), "though that worker stopped before it drew anything"


def test_where_all_nodes_share_the_results_nothing_is_uploaded(worker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle(worker)
    answers = SimpleNamespace(get=lambda answer, timeout: answer(), exceptions=ray.exceptions)
    monkeypatch.setattr(results_sync, "ray", answers)
    ResultsUploader(str(worker), handle, pytest.fail).upload_folder("trial-1")
    assert "write" not in handle.called
    assert (worker / SAMPLE).exists()


def test_task_that_writes_nothing_uploads_nothing(uploader: ResultsUploader, handle: Handle) -> None:
    uploader.upload_folder("opening-1")
    assert handle.called == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(),
        ray.exceptions.GetTimeoutError(),
        ray.exceptions.RayActorError(),
        ray.exceptions.RayTaskError("write", "Traceback\nOSError: No space left on device", OSError("full")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failed_upload_is_noted_once_and_the_task_goes_on(
    uploader: ResultsUploader, handle: Handle, worker: Path, notes: list[str], error: Exception
) -> None:
    handle.error = error
    for _ in range(3):
        uploader.upload_file(worker / SAMPLE)
    assert handle.called == ["outdated"], "training does not wait again for what does not answer"
    uploader.upload_folder("trial-1")
    (words,) = notes
    assert words.startswith("pages and pictures do not reach the driver's node, so MLflow may lack them: ")
    assert not words.endswith(": ")


def test_folder_that_cannot_be_listed_is_noted_too(
    uploader: ResultsUploader, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    def stale(_: Path) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "is_file", stale)
    uploader.upload_folder("trial-1")
    assert "Stale file handle" in notes[0]


def test_file_that_could_not_be_written_whole_leaves_the_last_one(
    uploader: ResultsUploader, worker: Path, driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader.upload_folder("trial-1")
    (worker / "trial-1/result.json").write_text("[1, 2, 3]")

    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    uploader.upload_folder("trial-1")
    assert (driver / "trial-1/result.json").read_text() == "{}"
