"""Which parameters each loss of a method reaches and moves, as the table in docs/method.md has it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.distributed.device import resolve_device
from hidfd.pipeline.observer import Observer
from hidfd.stages.methods.cmi import CmiTraining
from hidfd.stages.methods.dafl import DaflTraining
from hidfd.stages.methods.dfnd import DfndTraining
from hidfd.store.store import Store
from hidfd.trial import Trial
from tests.hidfd.miniature import METHODS

KINDS: dict[str, Any] = {"dafl": DaflTraining, "cmi": CmiTraining, "dfnd": DfndTraining}


def training_of(method: str, config: TrialConfig, store: Store, **values: Any) -> Any:
    """Return the training of a method, whose student has no weight decay: what moves, a loss has moved."""
    config = with_values(config, METHODS[method] | {"distillation.weight_decay": 0.0} | values)
    trial = Trial(config, store, resolve_device("cpu", "fp32"), Observer())
    trial.run("collection")
    return KINDS[method](trial.config, trial.inputs.collection, trial.inputs.teacher, trial.device)


def parts_of(training: Any) -> dict[str, list[Tensor]]:
    """Return what could be trained, by part."""
    modules = {name: getattr(training, name, None) for name in ("generator", "embedding", "adaptation", "teacher")}
    parts = {name: list(module.parameters()) for name, module in modules.items() if module is not None}
    return parts | {"student": [p for p in training.student.parameters() if p.requires_grad]}


def reached(training: Any, loss: Tensor) -> set[str]:
    """Return the parts that have a gradient of a loss."""
    for part in parts_of(training).values():
        for parameter in part:
            parameter.grad = None
    loss.backward()
    return {
        name
        for name, part in parts_of(training).items()
        if any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part)
    }


def moved(training: Any, images_seen: int) -> set[str]:
    """Return the parts that a step moves."""
    before = {name: [p.clone() for p in part] for name, part in parts_of(training).items()}
    training.step(images_seen)
    return {
        name
        for name, part in parts_of(training).items()
        if any(not torch.equal(a, b) for a, b in zip(before[name], part, strict=True))
    }


NO_LOSSES = {"dafl.one_hot_weight": 0.0, "dafl.activation_weight": 0.0, "dafl.entropy_weight": 0.0}


@pytest.mark.parametrize("weight", list(NO_LOSSES))
def test_each_loss_of_dafl_moves_the_generator_and_not_the_teacher(
    weight: str, trial_config: TrialConfig, store: Store
) -> None:
    training = training_of("dafl", trial_config, store, **NO_LOSSES | {weight: 1.0})
    assert moved(training, 0) == {"generator", "student"}


def test_the_student_of_dafl_teaches_its_generator_nothing(trial_config: TrialConfig, store: Store) -> None:
    """Another student, another learning rate: the same generator after three steps."""
    first, second = (
        training_of("dafl", trial_config, store, **{"distillation.learning_rate": rate}) for rate in (0.05, 0.5)
    )
    for images in (0, 16, 32):
        first.step(images)
        second.step(images)
    assert all(
        torch.equal(a, b) for a, b in zip(first.generator.parameters(), second.generator.parameters(), strict=True)
    )
    assert not all(
        torch.equal(a, b) for a, b in zip(first.student.parameters(), second.student.parameters(), strict=True)
    )


def test_a_step_of_dafl_shows_both_networks_the_same_images_and_each_step_others(
    trial_config: TrialConfig, store: Store
) -> None:
    training = training_of("dafl", trial_config, store)
    (image, answer), (again, _), (later, _) = (training.generate(images) for images in (0, 0, 16))
    assert torch.equal(image, again)
    assert not torch.equal(image, later)
    torch.testing.assert_close(answer.logits, training.teacher.ask(image).logits)


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("size", [28, 64])
def test_images_of_dafl_are_standardised_over_a_batch_or_lie_between_black_and_white(
    standardised: bool, size: int, trial_config: TrialConfig, store: Store
) -> None:
    values = {"dafl.standardised": standardised, "dafl.image_size_pixels": size}
    training = training_of("dafl", trial_config, store, **values)
    image, _ = training.generate(0)
    assert image.shape[1:] == (1, 28, 28), "what the teacher sees"
    if standardised:
        torch.testing.assert_close(image.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
        torch.testing.assert_close(image.var(correction=0), torch.tensor(1.0), atol=0.05, rtol=0)
    else:
        unit = training.teacher.normalization.inverse(image)
        assert unit.min() >= 0
        assert unit.max() <= 1
    assert training.samples().dtype == torch.uint8
    assert training.samples().shape == (100, 1, 28, 28)


CMI_LOSSES = ("statistics", "class", "adversarial", "contrastive")


@pytest.mark.parametrize("loss", CMI_LOSSES)
def test_each_loss_of_cmi_reaches_the_images_and_the_contrastive_one_alone_the_embedding(
    loss: str, trial_config: TrialConfig, store: Store
) -> None:
    training = training_of("cmi", trial_config, store)
    training.add_round()
    for parameter in training.student.parameters():  # so that both name one class, with other answers
        parameter.data.zero_()
    training.student.eval()
    image = torch.rand(8, 1, 28, 28, requires_grad=True)
    labels = torch.arange(8) % 3
    guess = training.teacher(image).logits.detach().argmax(dim=1).mode().values
    head = training.student.shared_classifier
    head.bias.data[guess] = 0.01
    losses, features = training.losses_of_images(image, labels, 0)
    found = reached(training, losses[loss])
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert "teacher" not in found
    assert ("embedding" in found) == (loss == "contrastive")
    assert features.shape == (8, 2, training.features.shape[2])


def test_a_round_of_cmi_moves_the_embedding_alone_and_a_step_within_a_round_the_student_alone(
    trial_config: TrialConfig, store: Store
) -> None:
    training = training_of("cmi", trial_config, store)
    student = {name: value.clone() for name, value in training.student.state_dict().items()}
    embedding = [p.clone() for p in training.embedding.parameters()]
    training.add_round()
    assert all(torch.equal(student[name], value) for name, value in training.student.state_dict().items())
    assert all(p.grad is None for p in training.student.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(embedding, training.embedding.parameters(), strict=True))
    assert moved(training, 0) == {"student"}


def test_rounds_of_cmi_come_when_they_are_due_and_fill_the_bank_with_other_images(
    trial_config: TrialConfig, store: Store
) -> None:
    training, sizes = training_of("cmi", trial_config, store), []
    for images in range(0, 96, 16):
        training.step(images)
        sizes.append(len(training.images))
    assert sizes == [8, 8, 16, 16, 24, 24]
    assert len(training.features) == 24
    assert len(training.images.flatten(1).unique(dim=0)) == 24


def test_a_round_of_cmi_keeps_the_images_of_its_lowest_loss(
    trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training_of("cmi", trial_config, store)
    seen, losses_of_images = [], training.losses_of_images

    def noted(image_unit: Tensor, labels: Tensor, position: int) -> tuple[dict[str, Tensor], Tensor]:
        losses, features = losses_of_images(image_unit, labels, position)
        losses["inversion"] = losses["inversion"] + (0.0 if position == 1 else 1e4)
        seen.append((image_unit.detach(), features.detach()))
        return losses, features

    monkeypatch.setattr(training, "losses_of_images", noted)
    training.add_round()
    image, features = seen[1]
    torch.testing.assert_close(training.images / 255.0, image, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(training.features, features)


def test_without_the_contrastive_loss_nothing_is_compared(trial_config: TrialConfig, store: Store) -> None:
    training = training_of("cmi", trial_config, store, **{"cmi.contrastive_weight": 0.0})
    metrics = training.add_round()
    assert "contrastive" not in metrics
    assert moved(training, 0) == {"student"}


def test_a_step_of_dfnd_moves_student_and_matrix(trial_config: TrialConfig, store: Store) -> None:
    training = training_of("dfnd", trial_config, store)
    assert moved(training, 0) == {"student", "adaptation"}
    assert {group["weight_decay"] for group in training.optimizer.param_groups} == {0.0}
    decayed = training_of("dfnd", trial_config, store, **{"distillation.weight_decay": 0.1})
    assert [group["weight_decay"] for group in decayed.optimizer.param_groups] == [0.1, 0.0]


def test_only_the_noisy_label_loss_reaches_the_matrix(trial_config: TrialConfig, store: Store) -> None:
    training = training_of("dfnd", trial_config, store)
    image, answer = training.views.batch(0)
    losses = training.losses_of(training.student(image), answer)
    assert reached(training, losses["noisy_labels"]) == {"student", "adaptation"}
    losses = training.losses_of(training.student(image), answer)
    assert reached(training, losses["feature"]) == {"student"}
