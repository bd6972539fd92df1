"""Only `run` refuses a study file that has changed: whatever reads a study shows it as its ledger has it, in a word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow.tracking import MlflowClient
from PIL import Image

from hidfd.pipeline import graph
from hidfd.store.store import Store
from tests.tune.small_study import RUN, small_study
from tests.tune.world import World, trial
from tune.__main__ import main
from tune.ledger.ledger import Ledger
from tune.ledger.opening import database_at, mark_forgotten
from tune.opened_study import open_last_run, open_study

READING = (
    ("status",),
    ("status", "--json"),
    ("status", "--watch"),
    ("show", "0"),
    ("explain", "0"),
    ("report",),
    ("stop",),
    ("forget",),
    ("forget", "--yes"),
)


@pytest.fixture(scope="module")
def empty_tracking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow, since making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def study_file(tmp_path: Path, empty_tracking: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`study.yaml` with images, over a world without torch."""
    (tmp_path / ".hidfd").mkdir()
    shutil.copy(empty_tracking, tmp_path / ".hidfd" / "mlflow.db")
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(photos / "0.png")
    controls = {"synthetic_only": False, "plain_kd": False}
    variants = {"hot": {"distillation.kl_temperature": 8.0}}
    file = small_study(World(), tmp_path, monkeypatch, num_students=3, controls=controls, variants=variants)
    edited(
        trial={"data": trial().data.model_dump(mode="json", exclude_none=True) | {"candidates": {"path": "photos"}}}
    )(monkeypatch)
    return file


def edited(**sections: dict[str, Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Return a change of the study file: section -> key -> value."""

    def change(_: pytest.MonkeyPatch) -> None:
        tree = yaml.safe_load(Path("study.yaml").read_text())
        for section, values in sections.items():
            tree[section] |= values
        Path("study.yaml").write_text(yaml.safe_dump(tree))

    return change


def with_newer_stage(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(graph.VERSIONS, "distillation", graph.VERSIONS["distillation"] + 1)


def without_images(_: pytest.MonkeyPatch) -> None:
    shutil.rmtree("photos")


def with_other_images(_: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.ones((28, 28), np.uint8)).save("photos/1.png")


CHANGES = {
    "a setting": edited(trial={"distillation": {"target_images": 6400, "batch_images": 64, "momentum": 0.5}}),
    "the search space": edited(search={"distillation.inflation": {"type": "categorical", "choices": [1, 2]}}),
    "the sampler": edited(study={"sampler": "tpe", "num_students": 50}),
    "the objective": edited(study={"objective": "validation_accuracy"}),
    "the variants": edited(study={"variants": {"cold": {"distillation.kl_temperature": 1.0}}}),
    "an unknown setting": edited(trial={"momentun": 0.5}),
    "a stage's version": with_newer_stage,
    "no images": without_images,
    "other images": with_other_images,
}


def said_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, Any]]:
    """Return what a command prints, and that as JSON where it is."""
    capsys.readouterr()
    assert main([arguments[0], "study.yaml", *arguments[1:]]) == 0
    said = capsys.readouterr()
    return said.out, json.loads(said.out) if "--json" in arguments else {}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_reads_shows_the_study_as_its_ledger_has_it(
    change: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(RUN) == 0
    _, before = said_by(capsys, "status", "--json")
    assert before["finished"]
    assert not caplog.messages
    change(monkeypatch)
    for verb in READING:
        caplog.clear()
        said, found = said_by(capsys, *verb)
        assert "not started" not in said
        (line,) = caplog.messages
        assert "the study file" in line
        assert "\n" not in line
        if found:
            assert {name: found[name] for name in found if name != "plan"} == {
                name: before[name] for name in found if name != "plan"
            }
            assert found["plan"]["num_unsuggested"] == 0


@pytest.mark.parametrize("change", [CHANGES["a setting"], CHANGES["a stage's version"]], ids=["setting", "version"])
def test_run_refuses_and_leaves_the_study_as_it_was(
    change: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(RUN) == 0
    _, before = said_by(capsys, "status", "--json")
    change(monkeypatch)
    assert main(RUN) == 2
    assert "was begun with other settings" in capsys.readouterr().err
    assert said_by(capsys, "status", "--json")[1]["works"] == before["works"]


def test_study_that_names_no_sampler_goes_on_with_the_one_that_began_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) == 0
    tree = yaml.safe_load(Path("study.yaml").read_text())
    del tree["study"]["sampler"]
    tree["study"]["num_students"] = 4
    Path("study.yaml").write_text(yaml.safe_dump(tree))
    assert main(RUN) == 0
    _, found = said_by(capsys, "status", "--json")
    assert found["finished"]
    assert found["config"]["study"]["sampler"] == "random"
    Path("study.yaml").write_text(yaml.safe_dump(tree | {"name": "another"}))
    assert said_by(capsys, "status", "--json")[1]["config"]["study"]["sampler"] == "stage-aware"


def test_study_of_a_version_that_kept_no_settings_is_read_by_its_identity(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Ledger, "set_settings", lambda *given: None)
    assert main(RUN) == 0
    _, before = said_by(capsys, "status", "--json")
    without_images(monkeypatch)
    CHANGES["the search space"](monkeypatch)
    _, found = said_by(capsys, "status", "--json")
    for name in ("works", "trials", "rows", "best", "verdict", "finished", "searched"):
        assert found[name] == before[name], name


def test_mistake_on_the_command_line_is_still_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) == 0
    assert main(["status", "study.yaml", "study.num_studnts=3"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_study_that_was_forgotten_half_way_is_forgotten_to_the_end_without_its_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) == 0
    mark_forgotten(".hidfd/ledger.db", "s")
    with database_at(".hidfd/ledger.db").open() as storage:
        storage.delete_study(storage.get_study_id_from_name("s"))
    without_images(monkeypatch)
    assert main(["status", "study.yaml"]) == 7
    assert "`forget` was ended before it had deleted everything" in capsys.readouterr().err
    said, _ = said_by(capsys, "forget", "--yes")
    assert "s: forgotten: " in said
    with database_at(".hidfd/ledger.db").open() as storage:
        assert storage.get_all_studies() == []


def test_stages_are_those_of_today_after_an_older_study_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(RUN) == 0
    with_newer_stage(monkeypatch)
    open_last_run("study.yaml")
    assert graph.versions_in_use() != graph.VERSIONS, "plans of the older study, as long as it is shown"
    study = open_study("study.yaml", ["name=newer"])
    of_methods = dict.fromkeys(graph.OTHER_METHODS)
    assert study.definition.identity()["stage_versions"] | of_methods == graph.VERSIONS | of_methods
    assert graph.versions_in_use() == graph.VERSIONS


@pytest.mark.parametrize("change", [lambda _: None, with_newer_stage], ids=["no change", "a stage's version"])
def test_forget_leaves_references_without_an_owner_that_the_ledger_does_not_know(
    change: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(RUN) == 0
    store, stranger = Store.open(".hidfd/store"), "f" * 64
    own = store.references_of("s").digests
    assert len(own) > 3
    store.write_references("s", [*own, stranger])  # as older versions did, of any ledger
    change(monkeypatch)
    said_by(capsys, "forget", "--yes")
    left = store.references_of("s")
    assert (left.digests, left.owner) == ({stranger}, None)
