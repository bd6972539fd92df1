"""The champion is registered once, loads without this project, and nothing but the champion is registered."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

import tune.__main__
from hidfd.config.schema import TrialConfig
from hidfd.errors import ConfigError, StoreError
from hidfd.export import deployed_student
from hidfd.store.store import Store
from tests.tune.snapshots import VARIANTS, study_snapshot
from tests.tune.students import keep_student
from tune.errors import StudyError, StudyLocked, TrackingError
from tune.opened_study import Study
from tune.promote import promote
from tune.report.champion import champion_of, config_of
from tune.study.snapshot import StudySnapshot
from tune.study.states import Standing
from tune.tracking import model_registry

ELSEWHERE = """
import sys
sys.modules["hidfd"] = sys.modules["tune"] = None  # as where neither is installed
try:
    import hidfd
except ImportError:
    print("without this project")
import mlflow, torch
student = mlflow.pytorch.load_model(sys.argv[1])
images = torch.load(sys.argv[2])
torch.save([student(images[:count]) for count in (1, 2, 7)], sys.argv[3])
"""


@dataclass(frozen=True)
class SnapshotStudy(Study):
    """A study with a given snapshot instead of a ledger."""

    kept: StudySnapshot = field(kw_only=True)
    driven_by: str | None = None

    def holder(self) -> str | None:
        return self.driven_by

    def snapshot(self) -> StudySnapshot:
        return self.kept

    def ledger_id(self) -> None:
        return None


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of one MLflow database for all tests, since making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    return study_snapshot(tmp_path_factory.mktemp("whole"), folders=False, study={"seeds": [1001, 1002, 1003]})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, whole: StudySnapshot) -> Store:
    """A store with every finalist's student."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    for key in whole.comparison_rows[0].keys:
        task = whole.task(key)
        assert task is not None
        keep_student(store, config_of(task, whole))
    return store


def study_of(snapshot: StudySnapshot, uri: str, store: Store, name: str, **more: Any) -> SnapshotStudy:
    file: Any = SimpleNamespace(storage=SimpleNamespace(tracking=uri))
    definition: Any = SimpleNamespace(name=name)
    return SnapshotStudy(file, store, definition, kept=replace(snapshot, name=name, tracking=uri), **more)


def winning(snapshot: StudySnapshot, seed: int) -> StudySnapshot:
    """The study with another seed's student nearest to the mean."""
    row = snapshot.comparison_rows[0]
    mean = row.means["agreement"]
    tasks = tuple(
        replace(task, value=mean if task.seed == seed else mean + 0.1) if task.key in row.keys else task
        for task in snapshot.tasks
    )
    return replace(snapshot, tasks=tasks)


def versions_of(uri: str, name: str) -> list[ModelVersion]:
    return sorted(MlflowClient(uri).search_model_versions(f"name = '{name}'"), key=lambda found: int(found.version))


@pytest.mark.slow
def test_the_champion_loads_where_this_project_is_not(
    whole: StudySnapshot, uri: str, store: Store, tmp_path: Path
) -> None:
    done = promote(study_of(whole, uri, store, "handed-over"))
    assert (done.name, done.version, done.alias, done.is_new) == ("handed-over", "1", "champion", True)
    champion = champion_of(whole)
    assert champion is not None
    images_unit = torch.rand(7, 1, 28, 28)
    torch.save(images_unit, tmp_path / "images.pt")
    told = subprocess.run(
        [
            *(sys.executable, "-I", "-c", ELSEWHERE),
            *("models:/handed-over@champion", str(tmp_path / "images.pt"), str(tmp_path / "logits.pt")),
        ],
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "without this project" in told.stdout
    network = deployed_student(config_of(champion.student, whole), store)
    for logits in torch.load(tmp_path / "logits.pt"):
        torch.testing.assert_close(logits, network(images_unit[: len(logits)]))
    assert f"MLFLOW_TRACKING_URI={uri}" in done.load
    assert 'load_model("models:/handed-over@champion")' in done.load


def test_the_page_of_the_version_says_what_it_is(whole: StudySnapshot, uri: str, store: Store) -> None:
    done = promote(study_of(whole, uri, store, "page"), name="garments", alias="best")
    (version,) = versions_of(uri, "garments")
    assert MlflowClient(uri).get_model_version_by_alias("garments", "best").version == version.version
    assert version.description.startswith("The network is in eval mode already; do not call `.eval()`")
    assert "in eval mode already; do not call `.eval()`" in done.in_words().splitlines()[0]
    assert f"**{whole.verdict}**" in version.description
    assert version.tags["digest"] == done.digest
    assert version.tags["study"] == "page"
    assert version.tags["n"] == "3"
    run = MlflowClient(uri).get_run(version.run_id)
    assert run.info.run_name == done.student
    assert run.data.tags["role"] == "finalist"
    (model,) = MlflowClient(uri).search_logged_models([run.info.experiment_id])
    assert "garments" in model.tags["mlflow.modelVersions"]


def test_the_same_student_is_never_registered_twice(whole: StudySnapshot, uri: str, store: Store) -> None:
    study = study_of(whole, uri, store, "same")
    first, second = promote(study), promote(study)
    assert (first.is_new, first.is_moved) == (True, True)
    assert (second.version, second.is_new, second.is_moved) == ("1", False, False)
    assert "nothing was registered anew" in second.in_words()
    more = replace(whole.comparison_rows[0], num_complete=2, keys=whole.comparison_rows[0].keys[:2])
    promote(replace(study, kept=replace(study.kept, comparison_rows=(more, *whole.comparison_rows[1:]))))
    (version,) = versions_of(uri, "same")
    assert version.tags["n"] == "2"
    experiment = MlflowClient(uri).get_experiment_by_name("same")
    assert experiment is not None
    assert len(MlflowClient(uri).search_logged_models([experiment.experiment_id])) == 1


def test_promotion_repeats_the_accuracy_of_the_teacher(whole: StudySnapshot, uri: str, store: Store) -> None:
    tasks = tuple(replace(task, metrics=task.metrics | {"teacher_validation_accuracy": 0.912}) for task in whole.tasks)
    promotion = promote(study_of(replace(whole, tasks=tasks), uri, store, "teacher"))
    assert promotion.teacher_validation_accuracy == 0.912
    assert promotion.to_json()["teacher_validation_accuracy"] == 0.912


def test_another_winner_is_another_version_and_takes_the_alias(whole: StudySnapshot, uri: str, store: Store) -> None:
    def promoted(seed: int) -> tuple[str, bool]:
        done = promote(study_of(winning(whole, seed), uri, store, "other"))
        assert done.seed == seed
        assert str(MlflowClient(uri).get_model_version_by_alias("other", "champion").version) == done.version
        return done.version, done.is_new

    assert promoted(1001) == ("1", True)
    assert promoted(1002) == ("2", True)
    assert promoted(1001) == ("1", False)
    assert len(versions_of(uri, "other")) == 2


@pytest.mark.parametrize(
    ("study", "search", "rounds", "words"),
    [
        (
            {},
            None,
            12,
            "after its controls and the test labels, and none was begun; the study goes on with: python",
        ),
        ({"variants": VARIANTS, "seeds": [1, 2]}, {}, None, "compares variants and searches nothing"),
    ],
)
def test_without_a_finalist_there_is_nothing_to_promote(
    study: dict[str, Any], search: Any, rounds: int | None, words: str, uri: str, store: Store, tmp_path: Path
) -> None:
    snapshot = study_snapshot(tmp_path, folders=False, study=study, search=search, rounds=rounds)
    with pytest.raises(StudyError, match=words) as refused:
        promote(study_of(snapshot, uri, store, "nothing"))
    assert refused.value.exit_code == 9
    assert MlflowClient(uri).get_experiment_by_name("nothing") is None


def test_a_study_that_still_runs_is_left_to_its_driver(whole: StudySnapshot, uri: str, store: Store) -> None:
    with pytest.raises(StudyLocked, match="process 12 on laptop"):
        promote(study_of(whole, uri, store, "driven", driven_by="process 12 on laptop"))
    assert MlflowClient(uri).get_experiment_by_name("driven") is None


def test_a_server_that_is_not_there_is_named(whole: StudySnapshot, store: Store) -> None:
    with pytest.raises(TrackingError) as refused:
        promote(study_of(whole, "http://someone:secret@127.0.0.1:1", store, "gone"))
    assert refused.value.exit_code == 11
    assert "http://someone:***@127.0.0.1:1: MLflow cannot be reached" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_without_weights_no_model_is_begun(whole: StudySnapshot, uri: str, store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not in the store") as refused:
        promote(study_of(whole, uri, Store.open(tmp_path / "empty"), "weightless"))
    assert refused.value.exit_code == 4
    experiment = MlflowClient(uri).get_experiment_by_name("weightless")
    assert experiment is not None
    assert list(MlflowClient(uri).search_logged_models([experiment.experiment_id])) == []
    assert versions_of(uri, "weightless") == []
    assert promote(study_of(whole, uri, store, "weightless")).version == "1"


def files_of(uri: str, name: str, version: str) -> Path:
    """The folder with the files of a registered version."""
    return Path(MlflowClient(uri).get_model_version_download_uri(name, version).removeprefix("file://"))


def loads(uri: str, name: str, version: str) -> bool:
    network = mlflow.pyfunc.load_model(str(files_of(uri, name, version)))
    return network.predict(np.zeros((1, 1, 28, 28), np.float32)).shape == (1, 10)


def delete_files(folder: Path) -> None:
    shutil.rmtree(folder)


def cut_off(folder: Path) -> None:
    network = folder / "data" / "model.pt2"
    network.write_bytes(network.read_bytes()[:5000])


def name_the_input(folder: Path) -> None:
    """As this project once did, so that `mlflow.pyfunc` hands the network a dictionary, which it does not take."""
    text = (folder / "MLmodel").read_text()
    assert '[{"type": "tensor"' in text
    (folder / "MLmodel").write_text(text.replace('[{"type": "tensor"', '[{"name": "image_unit", "type": "tensor"'))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "spoil", [delete_files, pytest.param(cut_off, marks=SLOW), pytest.param(name_the_input, marks=SLOW)]
)
def test_a_champion_that_does_not_load_any_more_is_logged_again(
    spoil: Callable[[Path], None], whole: StudySnapshot, uri: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    name = spoil.__name__.replace("_", "-")
    study = study_of(whole, uri, store, name)
    assert promote(study).version == "1"
    spoil(files_of(uri, name, "1"))
    done = promote(study)
    assert (done.version, done.is_new, done.is_moved) == ("2", True, True)
    assert f"models:/{name}/1 does not load" in caplog.text
    assert "logged again from the store" in caplog.text
    assert loads(uri, name, "2")
    assert str(MlflowClient(uri).get_model_version_by_alias(name, "champion").version) == "2"
    again = promote(study)
    assert (again.version, again.is_new, again.is_moved) == ("2", False, False)


def test_a_champion_that_neither_loads_nor_is_in_the_store_is_one_error(
    whole: StudySnapshot, uri: str, store: Store, tmp_path: Path
) -> None:
    assert promote(study_of(whole, uri, store, "lost")).version == "1"
    delete_files(files_of(uri, "lost", "1"))
    with pytest.raises(StoreError, match="models:/lost/1 does not load from .* cannot be logged again: ") as refused:
        promote(study_of(whole, uri, Store.open(tmp_path / "empty"), "lost"))
    assert "not in the store" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert len(versions_of(uri, "lost")) == 1


@pytest.mark.slow
def test_what_does_not_load_is_not_registered(
    whole: StudySnapshot, uri: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(whole, uri, store, "never")
    assert promote(study).version == "1"
    delete_files(files_of(uri, "never", "1"))
    write = model_registry._save

    def write_half(network: object, config: TrialConfig, folder: str, run: str, model: str) -> None:
        write(network, config, folder, run, model)
        cut_off(Path(folder))

    monkeypatch.setattr(model_registry, "_save", write_half)
    with pytest.raises(TrackingError, match="models:/never/2 does not load") as refused:
        promote(study)
    monkeypatch.setattr(model_registry, "_save", write)
    assert refused.value.exit_code == 11
    assert [version.version for version in versions_of(uri, "never")] == [1]
    assert str(MlflowClient(uri).get_model_version_by_alias("never", "champion").version) == "1"
    assert loads(uri, "never", promote(study).version)


@pytest.mark.parametrize(
    ("names", "word"),
    [({"name": "a/b"}, "--name"), ({"alias": "v2"}, "--alias"), ({"alias": "latest"}, "--alias")],
)
def test_names_that_mlflow_refuses_are_refused_before_anything_is_done(
    whole: StudySnapshot, store: Store, names: dict[str, str], word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        promote(study_of(whole, "http://127.0.0.1:1", store, "named"), **names)


def beaten(snapshot: StudySnapshot, control: str, standing: Standing = "lost") -> StudySnapshot:
    """The study with a control 23.0 points ahead of its champion, over all of its seeds or within what they scatter."""
    gains = tuple(
        replace(gain, gain=-0.23, value=0.423, other_value=0.653, low=-0.26, high=-0.20, standing=standing)
        if gain.other == control
        else gain
        for gain in snapshot.gains
    )
    return replace(snapshot, gains=gains)


@pytest.mark.parametrize("control", ["real-only", "plain-kd"])
def test_a_champion_that_a_control_beat_is_refused_with_both_and_what_to_do(
    control: str, whole: StudySnapshot, uri: str, store: Store
) -> None:
    study = study_of(beaten(whole, control), uri, store, "beaten")
    with pytest.raises(StudyError) as refused:
        promote(study)
    assert refused.value.exit_code == 9
    words = str(refused.value)
    assert f"hybrid lost to {control} by 23.0 points of validation accuracy (42.3 % against 65.3 %" in words
    assert "95 % interval 20.0 to 26.0, n = 3" in words
    assert f"-{control}-seed1001" in words, "where the better students are"
    assert "python -m tune promote studies/fashion-small.yaml --anyway" in words
    assert MlflowClient(uri).get_experiment_by_name("beaten") is None, "nothing is written before"


def test_a_beaten_champion_is_registered_anyway_where_asked_for(whole: StudySnapshot, uri: str, store: Store) -> None:
    study = study_of(beaten(whole, "real-only"), uri, store, "anyway")
    assert promote(study, anyway=True).is_new
    assert len(versions_of(uri, "anyway")) == 1


def test_promote_ends_with_9_where_a_control_won_and_with_0_anyway(
    whole: StudySnapshot,
    uri: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = study_of(beaten(whole, "real-only"), uri, store, "by-command")
    monkeypatch.setattr(tune.__main__, "open_study_of", lambda options: study)
    assert tune.__main__.main(["promote", "study.yaml"]) == 9
    told = capsys.readouterr()
    assert told.out == ""
    assert "hybrid lost to real-only by 23.0 points" in told.err
    assert "Traceback" not in told.err
    assert tune.__main__.main(["promote", "study.yaml", "--anyway"]) == 0
    assert "by-command version 1 is now the champion" in capsys.readouterr().out


@pytest.mark.parametrize("standing", ["undecided", "open"])
def test_a_champion_that_no_control_beat_beyond_doubt_is_registered(
    standing: Standing, whole: StudySnapshot, uri: str, store: Store
) -> None:
    assert promote(study_of(beaten(whole, "real-only", standing), uri, store, "doubted")).version == "1"


def test_a_finalist_that_is_better_on_the_labels_is_no_control(whole: StudySnapshot, uri: str, store: Store) -> None:
    other = replace(whole.gains[0], other="trial-7", role="finalist", standing="lost", low=-0.3, high=-0.2, gain=-0.25)
    assert promote(study_of(replace(whole, gains=(other, *whole.gains)), uri, store, "second")).version == "1"


def test_promotion_shows_the_value_of_the_search_beside_that_of_fresh_seeds(
    whole: StudySnapshot, uri: str, store: Store
) -> None:
    row = replace(whole.comparison_rows[0], search_value=0.991)
    shown = replace(whole, comparison_rows=(row, *whole.comparison_rows[1:]))
    promotion = promote(study_of(shown, uri, store, "curse"))
    assert promotion.search_value == 0.991
    assert promotion.fresh_value == row.means["agreement"]
    assert "99.1 %" in (promotion.choice or "")
    (version,) = versions_of(uri, "curse")
    assert version.tags["agreement_in_search"] == "0.9910"
    assert (promotion.choice or "") in version.description
