"""A study's results lie in a folder that others can write to: what is damaged there is left out of its report."""

from __future__ import annotations

from pathlib import Path

import pytest

from hidfd.report.live_metrics import readable_rows
from tests.hidfd.outline import Outline
from tests.tune.snapshots import study_snapshot
from tune.report.page import write_study_report
from tune.study.states import TaskKind
from tune.tracking.points import Point
from tune.tracking.run_content import curves_of


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"stages": [{}]}', b'{"a/b": "x"}', b"[" * 100_000]
)
def test_report_leaves_out_damaged_files_of_its_trials(tmp_path: Path, content: bytes) -> None:
    snapshot = study_snapshot(tmp_path / "study")
    damaged = [
        Path(task.folder) / name
        for task in snapshot.tasks
        for name in ("manifest.json", "metrics.jsonl")
        if (Path(task.folder) / name).is_file()
    ]
    assert damaged
    for path in damaged:
        path.write_bytes(content)
    headings = Outline(write_study_report(snapshot, tmp_path / "study").read_text()).headings
    assert "The comparison" in headings
    assert "How the best student was trained" not in headings


@pytest.mark.parametrize("rest", [b'{"images": 20, "distill', b"[" * 100_000, b"[]", b"\xff\xfe", b'{"images": null}'])
def test_curves_of_a_damaged_file_are_those_of_its_whole_rows(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"images": 10, "unix_time": 5.0, "distillation/feature": 0.5}\n' + rest)
    student = next(task for task in study_snapshot(tmp_path / "study").tasks if task.kind is TaskKind.STUDENT)
    assert curves_of(readable_rows(path), student) == {"distillation/feature": [Point(10, 0.5, 5.0)]}
