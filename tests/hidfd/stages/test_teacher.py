"""Teachers: imported by content, or trained here on images that are normalised once."""

import pytest
import safetensors.torch
import torch

from hidfd.config.schema import Material, TeacherConfig, TeacherTrainingConfig, TrialConfig
from hidfd.data.image_set import open_images
from hidfd.distributed.device import resolve_device
from hidfd.errors import InputError
from hidfd.pipeline.observer import Observer
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
