"""Teachers: imported by content, or trained here on images that are normalised once."""

import pytest
import safetensors.torch
import torch

from hidfd.config.schema import Material, TeacherConfig, TeacherTrainingConfig, TrialConfig
from hidfd.data.image_set import open_images
from hidfd.distributed.device import resolve_device
from hidfd.errors import InputError, TeacherError
from hidfd.pipeline.graph import Stage, kept_digests, teacher_check_of
from hidfd.pipeline.observer import Observer
from hidfd.stages.imports.weights import check_normalization
from hidfd.stages.teacher import TeacherTraining
from hidfd.store.store import Store
from hidfd.trial import Trial


def test_a_checkpoint_that_changed_after_it_was_identified_is_refused(trial_config: TrialConfig, store: Store) -> None:
    trial = Trial(trial_config, store, resolve_device("cpu", "fp32"), Observer())
    material = trial.config.teacher.checkpoint
    assert material is not None
    assert material.path is not None
    other = {name: tensor + 1 for name, tensor in safetensors.torch.load_file(material.path).items()}
    safetensors.torch.save_file(other, material.path)
    with pytest.raises(InputError, match=rf"trial\.teacher\.checkpoint: .* but the study file says {material.sha256}"):
        trial.run("teacher")
    assert store.find("teacher", trial.stages["teacher"].digest) is None


def test_a_checkpoint_that_is_nowhere_is_named(trial_config: TrialConfig, store: Store) -> None:
    teacher = trial_config.teacher.model_copy(update={"checkpoint": Material(sha256="0" * 64)})
    trial = Trial(
        trial_config.model_copy(update={"teacher": teacher}), store, resolve_device("cpu", "fp32"), Observer()
    )
    with pytest.raises(InputError, match=r"teacher\.checkpoint: sha256 0+ is not in the store"):
        trial.run("teacher")


@pytest.fixture
def training(trial_config: TrialConfig, store: Store) -> TeacherTraining:
    assert trial_config.data.validation is not None
    train = TeacherTrainingConfig(images=trial_config.data.validation, target_images=64, batch_images=16)
    teacher = TeacherConfig(architecture="resnet8", width=4, train=train)
    trial = Trial(
        trial_config.model_copy(update={"teacher": teacher}), store, resolve_device("cpu", "fp32"), Observer()
    )
    trial.run("import")
    return TeacherTraining(trial.config, open_images(trial.inputs.artifact("teacher_images")), trial.device)


def test_a_training_step_moves_every_parameter(training: TeacherTraining) -> None:
    before = [p.clone() for p in training.backbone.parameters()]
    training.step(0)  # the warm-up begins at nothing
    training.step(16)
    assert not any(torch.equal(a, b) for a, b in zip(before, training.backbone.parameters(), strict=True))


def test_training_images_are_normalised_once(training: TeacherTraining) -> None:
    seen: list[torch.Tensor] = []
    training.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    training.step(0)
    image_unit = seen[0] * training.std[0] + training.mean[0]
    assert -1e-5 < image_unit.min() < 0.02
    assert 0.8 < image_unit.max() < 1 + 1e-5


@pytest.mark.parametrize(
    ("mean", "std", "advice"),
    [
        ([72.9], [90.0], "0..255: then set trial.teacher.mean=[0.2859] trial.teacher.std=[0.3529]"),
        ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7], "trial.teacher.mean=[0.4914,0.4824,0.4467]"),
        ([-0.5], [0.5], "[-1, 1]: then set trial.teacher.mean=[0.25] trial.teacher.std=[0.25]"),
        ([0.5], [1.2], "0..255"),
        ([1000.0], [1000.0], "no images have such values"),
        ([0.5, 0.5, 2.0], [0.5, 0.5, 0.5], "0..255"),
        ([0.5], [0.0], "above 0"),
    ],
)
def test_mean_and_std_that_no_images_in_0_to_1_have_are_refused_with_those_meant(
    mean: list[float], std: list[float], advice: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_normalization(mean, std)
    assert advice in str(caught.value)


@pytest.mark.parametrize(("mean", "std"), [([0.0], [1.0]), ([1.0], [0.001]), ([0.485, 0.456, 0.406], [1 / 255] * 3)])
def test_usual_normalisations_pass(mean: list[float], std: list[float]) -> None:
    check_normalization(mean, std)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": (72.9,), "std": (90.0,)}, r"trial\.teacher\.mean \[72\.9\] and std \[90\.0\]"),
        ({}, r"trial\.teacher\.checkpoint .*: 1 weight is not finite, .* first is fc\.bias"),
    ],
)
def test_nothing_is_kept_of_a_teacher_that_cannot_be_right(
    trial_config: TrialConfig, store: Store, change: dict[str, object], words: str
) -> None:
    material = trial_config.teacher.checkpoint
    assert material is not None
    assert material.path is not None
    if not change:
        state = safetensors.torch.load_file(material.path)
        state["fc.bias"][1] = float("inf")
        safetensors.torch.save_file(state, material.path)
    config = trial_config.model_copy(update={"teacher": trial_config.teacher.model_copy(update=change)})
    trial = Trial(config, store, resolve_device("cpu", "fp32"), Observer())
    with pytest.raises(InputError, match=words):
        trial.run("teacher")
    assert store.find("teacher", trial.stages["teacher"].digest) is None


class Listener(Observer):
    """An observer that keeps what it is told, and which stages were built."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.built: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage_finished(self, stage: Stage, seconds: float) -> None:
        self.built.append(stage.name)


def with_one_class(config: TrialConfig, **settings: object) -> TrialConfig:
    """Return the trial with a teacher that names class 2 whatever it is shown."""
    material = config.teacher.checkpoint
    assert material is not None
    assert material.path is not None
    state = safetensors.torch.load_file(material.path)
    state["fc.bias"] += torch.tensor([0.0, 0.0, 1000.0])
    safetensors.torch.save_file(state, material.path)
    return config.model_copy(update={"teacher": config.teacher.model_copy(update=settings)})


def trial_of(config: TrialConfig, store: Store) -> tuple[Trial, Listener]:
    observer = Listener()
    return Trial(config, store, resolve_device("cpu", "fp32"), observer), observer


def test_teacher_that_names_one_class_is_refused_before_anything_is_built(
    trial_config: TrialConfig, store: Store
) -> None:
    config = with_one_class(trial_config)
    for _ in range(2):  # the second time by the record of the first
        trial, observer = trial_of(config, store)
        with pytest.raises(TeacherError) as caught:
            trial.run("evaluation")
        for words in ("100.0 % of 150 candidates one class, 2", "0..255", "channels swapped", "teacher.accept=true"):
            assert words in str(caught.value)
        assert set(observer.built) <= {"import", "teacher"}
    assert store.find("collection", trial.stages["collection"].digest) is None


def test_accepted_teacher_goes_on_with_a_warning_and_the_same_digests(trial_config: TrialConfig, store: Store) -> None:
    config = with_one_class(trial_config)
    trial, observer = trial_of(
        config.model_copy(update={"teacher": config.teacher.model_copy(update={"accept": True})}), store
    )
    trial.run("collection")
    assert "collection" in observer.built
    assert any("taken all the same" in note for note in observer.notes)
    assert trial.stages == trial_of(config, store)[0].stages


def test_teacher_is_asked_once_and_its_numbers_are_said_and_kept(trial_config: TrialConfig, store: Store) -> None:
    trial, observer = trial_of(trial_config, store)
    trial.run("collection")
    said = [note for note in observer.notes if "accuracy on 30 validation images" in note]
    assert len(said) == 1
    stage = teacher_check_of(trial.stages)
    record = store.get(stage.name, stage.digest)
    assert record.meta["num_labelled"] == 30
    assert record.meta["num_candidates"] == 150
    assert sum(record.meta["class_shares"]) == pytest.approx(1)
    trial.run("evaluation")
    evaluation = store.get("evaluation", trial.stages["evaluation"].digest)
    assert evaluation.meta["teacher_validation_accuracy"] == pytest.approx(record.meta["accuracy"])
    assert [note for note in observer.notes if "accuracy on 30 validation images" in note] == said


def test_record_of_the_check_is_kept_by_the_store(trial_config: TrialConfig, store: Store) -> None:
    trial, _ = trial_of(trial_config, store)
    trial.run("collection")
    store.write_references("study", kept_digests(trial.config))
    store.remove()
    stage = teacher_check_of(trial.stages)
    assert store.find(stage.name, stage.digest) is not None


def test_answers_that_are_not_finite_are_refused_though_all_weights_are(
    trial_config: TrialConfig, store: Store
) -> None:
    config = with_one_class(trial_config, accept=True)
    assert config.teacher.checkpoint is not None
    path = str(config.teacher.checkpoint.path)
    state = {n: t * 1e25 if "conv" in n or "fc" in n else t for n, t in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(state, path)
    head = {"head": "own", "feature_weight": 0.0, "kl_weight": 1.0}
    trial, _ = trial_of(config.model_copy(update={"distillation": config.distillation.model_copy(update=head)}), store)
    with pytest.raises(TeacherError, match="images are not finite"):
        trial.run("collection")
