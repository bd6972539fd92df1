"""The JSON of a snapshot: `status --json` prints it, and programs read its keys."""

import json
from pathlib import Path

from tests.tune.snapshots import study_snapshot

KEYS = (
    *("name", "file", "command", "objective", "searched", "num_students", "config", "trials", "works", "rows", "best"),
    *("rank_agreement", "rank_agreement_count", "verdict", "undone", "finished", "folder", "tracking", "cpu_seconds"),
    *("notes", "openings", "stopping", "spent", "front", "gains", "worth"),
)
TASK_KEYS = (
    *("number", "key", "kind", "until", "role", "label", "trial", "seed", "params", "needs", "state", "reason"),
    *("stage", "images", "target_images", "metrics", "value", "value_error", "rungs", "reused", "seconds", "attempts"),
    *("folder", "picture"),
)


def test_json_of_a_study_has_the_keys_that_programs_read(tmp_path: Path) -> None:
    snapshot = study_snapshot(tmp_path, rounds=12, folders=False)
    document = json.loads(json.dumps(snapshot.to_json()))
    assert tuple(document) == KEYS
    assert {tuple(task) for task in document["works"]} == {TASK_KEYS}
    assert {(task["kind"], task["until"]) for task in document["works"]} == {
        ("build", "collection"),
        ("build", "synthesis"),
        ("student", "evaluation"),
    }
    config = document["config"]
    assert tuple(config) == ("study", "search", "trial")
    assert config["study"]["num_students"] == snapshot.study.num_students
    assert config["search"]["distillation.inflation"]["log"] is True
    assert config["trial"]["data"]["candidates"]["sha256"] == "a" * 64
    assert "preset" not in config["trial"]
