"""Whole trials in miniature: every stage runs, resumes bit for bit, reuses, and stops cleanly."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.data.collection import open_collection
from hidfd.errors import DivergedError, InputError
from hidfd.networks.student import Student
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.store.store import Artifact, Store
from hidfd.trial import TrialResult, evaluate_test, run_trial


def artifact(result: TrialResult, store: Store, role: str) -> Artifact:
    return store.get(result.stages[role].name, result.stages[role].digest)


def test_trial_goes_through_every_stage_and_explains_itself(
    trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    result = run_trial(trial_config, store, folder=tmp_path / "trial", device="cpu", name="miniature")
    assert 0 <= result.metrics["agreement"] <= 1
    assert 0 <= result.metrics["validation_accuracy"] <= 1
    assert result.metrics["validation_images"] == 30
    assert sum(result.metrics["class_histogram_synthetic"]) == 40
    assert result.metrics["generator"]["memorisation"] is not None
    asked = result.metrics["generator"]["asked_classes"]
    assert asked == sum(count > 0 for count in result.metrics["class_histogram_collection"])
    names = {str(path.relative_to(tmp_path / "trial")) for path in (tmp_path / "trial").rglob("*.*")}
    assert {"config.yaml", "manifest.json", "metrics.jsonl", "result.json", "report.html"} <= names
    assert {"pictures/real.png", "pictures/synthetic.png", "pictures/neighbours.png"} <= names
    assert sum(name.startswith("samples/generation-") for name in names) == 3
    rows = [json.loads(line) for line in (tmp_path / "trial" / "metrics.jsonl").read_text().splitlines()]
    logged = {key for row in rows for key in row}
    assert {
        f"generation/{term}" for term in ("hinge_d", "adc_d", "trans", "blend", "hinge_g", "adc_g", "reg")
    } <= logged
    assert "distillation/feature" in logged
    page = (tmp_path / "trial" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_a_manifest_names_the_device_and_the_content_of_what_was_read(trial_config: TrialConfig, store: Store) -> None:
    result = run_trial(trial_config, store, device="cpu")
    student = result.stages["distillation"]
    where = Path(store.uri) / "distillation" / student.digest / "manifest.json"
    manifest = json.loads(where.read_text())
    assert manifest["environment"]["device"].startswith("cpu, ")
    assert manifest["consumed"] == {
        f"{role}/{digest}": {name: record.sha256 for name, record in store.get(role, digest).files.items()}
        for role, digest in student.inputs.items()
    }
    assert set(student.inputs) == {"collection", "teacher", "synthesis"}


def test_second_run_reuses_everything(trial_config: TrialConfig, store: Store) -> None:
    first = run_trial(trial_config, store, device="cpu")
    second = run_trial(trial_config, store, device="cpu")
    assert not first.reused
    assert set(second.reused) == set(second.stages)
    assert second.metrics == first.metrics


def test_real_only_trial_builds_no_generator(trial_config: TrialConfig, store: Store) -> None:
    result = run_trial(with_values(trial_config, {"synthesis.num_images": 0}), store, device="cpu")
    assert "generation" not in result.stages
    assert (result.metrics["num_collected"], result.metrics["num_synthetic"]) == (24, 0)


def test_synthetic_only_trial_shows_the_student_no_collected_image(trial_config: TrialConfig, store: Store) -> None:
    result = run_trial(with_values(trial_config, {"distillation.inflation": 0.0}), store, device="cpu")
    assert (result.metrics["num_collected"], result.metrics["num_synthetic"]) == (0, 40)


def test_plain_kd_and_every_loss_run(trial_config: TrialConfig, store: Store) -> None:
    plain = {"head": "own", "feature_weight": 0.0, "kl_weight": 1.0}
    config = with_values(trial_config, {f"distillation.{name}": value for name, value in plain.items()})
    result = run_trial(config, store, device="cpu")
    assert result.metrics["deployed_parameters"] == result.metrics["student_parameters"]
    config = with_values(trial_config, {"distillation.kl_weight": 0.5, "distillation.ce_weight": 0.5})
    result = run_trial(config, store, device="cpu")
    assert result.metrics["deployed_parameters"] > 0


@pytest.mark.parametrize(
    "values",
    [
        {"generation.integration.pairing": "class_mean", "generation.smoothing.counting": "soft"},
        {"generation.discriminator_steps": 2, "generation.flip": True, "generation.diff_augment": ()},
        {"generation.smoothing.mode": "off", "generation.integration.trans_weight": 0.0},
        {
            "generation.networks": "residual",
            "generation.image_size_pixels": 32,
            "generation.smoothing.mode": "effective",
        },
        {"generation.image_size_pixels": 64},
        {"generation.networks": "residual", "generation.image_size_pixels": 64, "generation.attention": True},
        {"collection.mode": "confident"},
        {"collection.mode": "confident_per_class", "distillation.schedule": "steps"},
        {"distillation.architecture": "shufflenetv1-32px", "distillation.width": None},
        {"distillation.architecture": "mobilenetv2-32px", "distillation.width": None},
    ],
)
def test_every_mode_of_the_method_runs(values: dict[str, Any], trial_config: TrialConfig, store: Store) -> None:
    result = run_trial(with_values(trial_config, values), store, device="cpu")
    assert result.metrics["agreement"] is not None


def test_own_synthetic_images_take_the_place_of_the_generator(
    trial_config: TrialConfig, store: Store, world: Path
) -> None:
    config = with_values(trial_config, {"data.synthetic": {"path": str(world / "candidates")}})
    result = run_trial(config, store, device="cpu")
    assert "generation" not in result.stages
    assert result.metrics["num_synthetic"] == 150


def test_a_non_finite_loss_ends_the_trial_and_leaves_earlier_artifacts(trial_config: TrialConfig, store: Store) -> None:
    config = with_values(trial_config, {"distillation.learning_rate": 9.0, "distillation.feature_weight": 1000.0})
    config = with_values(config, {"distillation.momentum": 1.0, "distillation.target_images": 4000})
    with pytest.raises(DivergedError, match="not finite"):
        run_trial(config, store, device="cpu")
    assert "generation" in run_trial(trial_config, store, device="cpu").reused


def test_too_few_candidates_are_named_with_the_settings_that_want_them(trial_config: TrialConfig, store: Store) -> None:
    with pytest.raises(InputError, match=r"150 distinct images for trial\.collection\.num_images 100"):
        run_trial(with_values(trial_config, {"collection.num_images": 100}), store, device="cpu")


def test_the_collection_and_the_holdout_are_disjoint_and_shared_by_all_modes(
    trial_config: TrialConfig, store: Store
) -> None:
    holdouts = []
    for mode in ("random", "confident", "confident_per_class"):
        config = with_values(trial_config, {"collection.mode": mode})
        result = run_trial(config, store, until="collection", device="cpu")
        collection = open_collection(artifact(result, store, "collection"), artifact(result, store, "candidates"))
        holdouts.append(collection.holdout)
        together = torch.cat([collection.images, collection.holdout]).flatten(1)
        assert len(torch.unique(together, dim=0)) == len(together)
        assert len(collection.images) == 24
    assert torch.equal(holdouts[0], holdouts[1])
    assert torch.equal(holdouts[0], holdouts[2])


def test_no_stage_reads_the_test_labels_and_a_test_evaluation_is_recorded(
    trial_config: TrialConfig, store: Store, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_values(trial_config, {"data.test": {"path": str(world / "validation")}})
    result = run_trial(config, store, device="cpu")
    assert not [key for key in result.metrics if "test" in key]
    first = evaluate_test(config, store, device="cpu")
    assert 0 <= first["test_accuracy"] <= 1
    monkeypatch.setattr("hidfd.stages.evaluation.labelled_measures", None)  # a second look reads the record
    assert evaluate_test(config, store, device="cpu") == first


def test_the_labels_of_the_test_split_change_nothing_but_the_test_evaluation(
    trial_config: TrialConfig, tmp_path: Path, world: Path
) -> None:
    shown, left = [], []
    for number, order in enumerate(((0, 1, 2), (1, 2, 0))):
        for name, source in zip(("class0", "class1", "class2"), order, strict=True):
            shutil.copytree(world / "validation" / f"class{source}", tmp_path / f"test{number}" / name)
        next((tmp_path / f"test{number}").rglob("000.png")).unlink()  # so that the classes' sizes change places too
        store = Store.open(tmp_path / f"store{number}")
        config = with_values(trial_config, {"data.test": {"path": str(tmp_path / f"test{number}")}})
        result = run_trial(config, store, device="cpu")
        files = {
            (role, name): record.sha256
            for role, stage in result.stages.items()
            if role != "test"
            for name, record in store.get(stage.name, stage.digest).files.items()
            if not name.endswith(".jsonl")  # holds seconds
        }
        left.append((result.metrics, files))
        shown.append(evaluate_test(config, store, device="cpu")["test_confusion"])
    assert left[0] == left[1]
    assert shown[0] == [shown[1][2], shown[1][0], shown[1][1]]


def test_teacher_and_student_see_every_image_normalised_once(
    trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hidfd.networks.teacher.check_shareable", lambda *_: None)  # asks with noise
    seen: dict[str, list[torch.Tensor]] = {}

    def recording(who: str, method: Any) -> Any:
        def record(self: Any, image_normalised: torch.Tensor) -> Any:
            seen.setdefault(who, []).append(image_normalised.detach() * 0.3 + 0.3)
            return method(self, image_normalised)

        return record

    monkeypatch.setattr(Teacher, "ask", recording("teacher", Teacher.ask))
    monkeypatch.setattr(Student, "forward", recording("student", Student.forward))
    for stage in ("collection", "generation", "synthesis", "distillation", "evaluation"):
        seen.clear()
        monkeypatch.setattr("hidfd.networks.teacher._remembered", {})  # each stage as a process of its own
        run_trial(trial_config, store, until=stage, device="cpu")
        assert seen.keys() == ({"teacher", "student"} if stage in ("distillation", "evaluation") else {"teacher"})
        for who, images_unit in seen.items():
            lowest, highest = min(i.min() for i in images_unit), max(i.max() for i in images_unit)
            assert lowest > -1e-5, (stage, who)
            assert highest < 1 + 1e-5, (stage, who)
            if stage != "synthesis":  # whose images are all grey after three steps
                assert lowest < 0.05, (stage, who)
                assert highest > 0.8, (stage, who)


@pytest.mark.parametrize(("stage", "before"), [("generation", "collection"), ("distillation", "synthesis")])
def test_loops_read_the_device_once_per_logging_interval(
    stage: str, before: str, trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_trial(trial_config, store, until=before, device="cpu")
    seldom = ("distillation.measure_every_images", "generation.grid_every_images", "generation.proxies_every_images")
    values: dict[str, Any] = dict.fromkeys(seldom, 10_000)
    values |= {f"{stage}.target_images": 640, "log_every_images": 320, "checkpoint_every_seconds": 1000.0}
    config = with_values(trial_config, values)
    reads: list[str] = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)

        def counting(self: torch.Tensor, *args: Any, _original: Any = original, _name: str = name) -> Any:
            reads.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counting)
    steps = []

    class Counter(Observer):
        def advanced(self, told: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
            if told.name == stage:
                steps.append((images, len(reads)))

    run_trial(config, store, until=stage, device="cpu", observer=Counter())
    assert [images for images, _ in steps] == [320, 640]
    assert steps[1][1] - steps[0][1] == 1


def test_a_student_tells_again_what_it_had_measured_before(trial_config: TrialConfig, store: Store) -> None:
    class Listener(Observer):
        def __init__(self) -> None:
            self.heard: list[tuple[int, dict[str, float]]] = []

        def measured(self, stage: Stage, images: int, metrics: dict[str, float]) -> None:
            if stage.name == "distillation":
                self.heard.append((images, metrics))

    first, again = Listener(), Listener()
    run_trial(trial_config, store, device="cpu", observer=first)
    run_trial(trial_config, store, device="cpu", observer=again)
    assert first.heard
    assert [images for images, _ in again.heard] == [images for images, _ in first.heard]
    assert [metrics["agreement"] for _, metrics in again.heard] == [metrics["agreement"] for _, metrics in first.heard]


def test_numbers_of_a_part_of_a_trial_are_those_of_that_part(trial_config: TrialConfig, store: Store) -> None:
    run_trial(trial_config, store, device="cpu")
    collection = run_trial(trial_config, store, device="cpu", until="collection")
    assert collection.metrics["generator"] is None
    assert collection.metrics["agreement"] is None
    assert collection.metrics["class_histogram_collection"] is not None
