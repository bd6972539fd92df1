"""The display of a watched job, on a terminal and in a log."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from k8s.display import JobDisplay, checks_table, job_table
from k8s.job.progress import Progress
from k8s.job.status import JobState
from k8s.job.watch import JobSnapshot
from k8s.preflight.check import Check, CheckStatus

STATE = JobState("Running", "RUNNING", 1, 3, "cluster-1", "", "")


@pytest.fixture
def snapshot() -> JobSnapshot:
    return JobSnapshot("fashion-1", STATE, Progress(num_students=2), None, (), ())


def drawn(snapshot: JobSnapshot) -> str:
    stream = StringIO()
    Console(file=stream, width=200).print(job_table(snapshot))
    return stream.getvalue()


def test_log_says_once_why_a_queue_holds_the_job_back(snapshot: JobSnapshot) -> None:
    stream = StringIO()
    with JobDisplay(stream) as display:
        for queued in ("waits in queue research: 2 cpu more needed",) * 3 + (None,):
            display.show(replace(snapshot, queued=queued))
    assert stream.getvalue().count("waits in queue research: 2 cpu more needed") == 1


def test_table_has_a_row_for_the_queue_while_it_holds_the_job_back(snapshot: JobSnapshot) -> None:
    assert "waits in queue research" in drawn(replace(snapshot, queued="waits in queue research"))
    assert "queue" not in drawn(snapshot)


def test_table_shows_a_task_that_was_cut_off_until_it_runs_again(snapshot: JobSnapshot) -> None:
    snapshot.progress.cut_off["generator-0"] = "lost its node at 27,000 images; it goes on from there"
    assert "lost its node" in drawn(snapshot)
    snapshot.progress.running["generator-0"] = "generation 30,000 of 60,000 images"
    assert "lost its node" not in drawn(snapshot)
    assert "generation 30,000" in drawn(snapshot)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_tables_break_no_word_and_are_no_wider_than_the_screen(width: int, snapshot: JobSnapshot) -> None:
    image = f"registry.example.org/research/hidfd@sha256:{'f' * 20}"
    found = f"nodes of pool gpu-a100 have pulled {image} and hold at most 8 CPUs and 1 GPU beside it"
    checks = [Check("image of the workers", CheckStatus.WARN, found, "give pods that fit: resources.cpus_per_worker=4")]
    trouble = "pod fashion-small-worker-gpu-a100-x7k2p: ImagePullBackOff: the registry refuses the image"
    for table in (
        checks_table(checks),
        job_table(replace(snapshot, troubles=(trouble,), name="fashion-small-1a2b3c4d")),
    ):
        stream = StringIO()
        Console(file=stream, width=width).print(table, crop=False)
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        words = stream.getvalue().split()
        assert {"nodes", image} <= set(words) or {"fashion-small-worker-gpu-a100-x7k2p:", "ImagePullBackOff:"} <= set(
            words
        )
