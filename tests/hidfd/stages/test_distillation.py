"""A step of the student: which parameters each loss reaches and moves, and the mix of images that it sees."""

import pytest
import torch
from torch import Tensor

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.distributed.device import resolve_device
from hidfd.pipeline.observer import Observer
from hidfd.stages.methods.student_training import StudentTraining
from hidfd.store.store import Store
from hidfd.trial import Trial
from hidfd.views.fresh import FreshViews

ALIGNED = {"trunk", "projector"}


def training_of(config: TrialConfig, store: Store, **settings: object) -> StudentTraining:
    config = with_values(config, {f"distillation.{name}": value for name, value in settings.items()})
    trial = Trial(config, store, resolve_device("cpu", "fp32"), Observer())
    trial.run("collection")
    synthetic = torch.full((40, 1, 28, 28), 255, dtype=torch.uint8)
    return StudentTraining(trial.config, trial.inputs.collection, synthetic, trial.inputs.teacher, trial.device)


def parts_of(training: StudentTraining) -> dict[str, list[Tensor]]:
    student = training.student
    head: list[Tensor] = list(student.backbone.classifier.parameters())
    parts: dict[str, list[Tensor]] = {
        "trunk": [p for p in student.backbone.parameters() if all(p is not q for q in head)],
        "own head": head,
        "teacher": list(training.teacher.parameters()),
    }
    for name, module in (("projector", student.projector), ("shared classifier", student.shared_classifier)):
        if module is not None:
            parts[name] = list(module.parameters())
    return parts


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"feature_weight": 1.0}, ALIGNED),
        ({"feature_weight": 0.0, "kl_weight": 1.0}, ALIGNED),
        ({"feature_weight": 0.0, "ce_weight": 1.0}, ALIGNED),
        ({"head": "own", "feature_weight": 0.0, "kl_weight": 1.0}, {"trunk", "own head"}),
        ({"head": "own", "feature_weight": 0.0, "ce_weight": 1.0}, {"trunk", "own head"}),
    ],
)
def test_a_loss_of_the_student_reaches_and_moves_exactly_its_parts(
    settings: dict[str, object], parts: set[str], trial_config: TrialConfig, store: Store
) -> None:
    training = training_of(trial_config, store, weight_decay=0.0, **settings)
    before = {name: [p.clone() for p in part] for name, part in parts_of(training).items()}
    training.step(0)
    for name, part in parts_of(training).items():
        gradients = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part]
        moved = [not torch.equal(a, b) for a, b in zip(before[name], part, strict=True)]
        assert gradients == moved == [name in parts] * len(part), name


@pytest.mark.parametrize(("inflation", "share"), [(0.0, 0.0), (1.0, 24 / 64), (5.0, 120 / 160)])
def test_the_student_sees_real_and_synthetic_images_in_the_ratio_of_the_inflation(
    inflation: float, share: float, trial_config: TrialConfig, store: Store
) -> None:
    training = training_of(trial_config, store, inflation=inflation)
    images = training.sampler.pass_images
    views = torch.cat([training.views.draw(seen) for seen in range(0, 16 * images, 16)])
    is_synthetic = (views > 0.999).all(dim=3).all(dim=2).all(dim=1)
    assert (~is_synthetic).float().mean().item() == pytest.approx(share)


def test_whole_views_of_synthetic_images_beside_cropped_ones_of_real_images(
    trial_config: TrialConfig, store: Store
) -> None:
    training = training_of(trial_config, store, flip=False, crop_fraction_synthetic=0.0)
    assert isinstance(training.views, FreshViews)
    training.views.synthetic = torch.arange(28).mul(9).to(torch.uint8).expand(40, 1, 28, 28).contiguous()
    ramp = training.views.synthetic[0] / 255.0
    real, _ = training.sampler.batch(0, 16)
    assert torch.allclose(training.views.draw(0)[len(real) :], ramp.expand(16 - len(real), 1, 28, 28), atol=1e-5)
    cropped = training_of(trial_config, store, flip=False)
    assert torch.equal(cropped.views.draw(0)[: len(real)], training.views.draw(0)[: len(real)])


def test_mixed_views_are_of_one_source_unless_asked_to_mix_across(trial_config: TrialConfig, store: Store) -> None:
    def shares_of_white(**settings: object) -> Tensor:
        training = training_of(trial_config, store, mix="cutmix", crop_fraction_synthetic=0.0, **settings)
        real, _ = training.sampler.batch(0, 16)
        return (training.views.draw(0)[len(real) :] > 0.999).float().mean(dim=(1, 2, 3))

    assert shares_of_white().min() == 1.0
    assert shares_of_white(mix_across=True).min() < 1.0


def test_mixing_leaves_the_views_themselves_as_they_are_without_it(trial_config: TrialConfig, store: Store) -> None:
    plain, mixed = training_of(trial_config, store), training_of(trial_config, store, mix="cutmix", mix_fraction=0.0)
    assert torch.equal(plain.views.draw(64), mixed.views.draw(64))
