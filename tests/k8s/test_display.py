"""The display of a watched job, on a terminal and in a log."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from k8s.display import JobDisplay, job_table
from k8s.job.progress import Progress
from k8s.job.status import JobState
from k8s.job.watch import JobSnapshot

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
