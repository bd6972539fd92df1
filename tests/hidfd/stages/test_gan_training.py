"""A step of the GAN: which parameters each term of its losses reaches, and what every step moves."""

import pytest
import torch
from torch import Tensor

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.distributed.device import resolve_device
from hidfd.networks.layers import SelfAttention
from hidfd.pipeline.observer import Observer
from hidfd.stages.gan_training import AdversarialTraining, ema_beta
from hidfd.store.store import Store
from hidfd.trial import Trial

WEIGHTS = {
    "hinge": "adversarial_weight",
    "adc": "adc_weight",
    "trans": "integration.trans_weight",
    "blend": "integration.blend_weight",
    "reg": "smoothing.weight",
    "consistency": "consistency_weight",
    "lecam": "lecam_weight",
}


def training_of(config: TrialConfig, store: Store) -> AdversarialTraining:
    trial = Trial(config, store, resolve_device("cpu", "fp32"), Observer())
    trial.run("collection")
    return AdversarialTraining(trial.config, trial.inputs.collection, trial.inputs.teacher, trial.device)


def training_with(term: str, config: TrialConfig, store: Store) -> AdversarialTraining:
    """Return a training with one term of the losses alone."""
    values = {f"generation.{path}": float(name == term) for name, path in WEIGHTS.items()}
    return training_of(with_values(config, values), store)


def test_attention_is_in_the_generator_its_average_and_the_discriminator(
    trial_config: TrialConfig, store: Store
) -> None:
    values = {"networks": "residual", "image_size_pixels": 64, "attention": True}
    training = training_of(with_values(trial_config, {f"generation.{k}": v for k, v in values.items()}), store)
    for network in (training.generator, training.ema, training.discriminator):
        assert sum(isinstance(layer, SelfAttention) for layer in network.modules()) == 1


def parts_of(training: AdversarialTraining) -> dict[str, list[Tensor]]:
    discriminator = training.discriminator
    return {
        "generator": list(training.generator.parameters()),
        "trunk": list(discriminator.trunk.parameters()),
        "regressor": list(training.regressor.parameters()),
        "adversarial head": list(discriminator.adversarial_head.parameters()),
        "adc head": list(discriminator.adc_head.parameters()),
        "teacher": list(training.teacher.parameters()),
        "average": list(training.ema.parameters()),
    }


def reached(training: AdversarialTraining) -> set[str]:
    """Return the parts whose every parameter has a gradient; refuse a part of which only some have one."""
    found = set()
    for name, parameters in parts_of(training).items():
        has_gradient = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters]
        assert all(has_gradient) or not any(has_gradient), f"{name}: {has_gradient}"
        if all(has_gradient):
            found.add(name)
    return found


@pytest.fixture
def training(trial_config: TrialConfig, store: Store) -> AdversarialTraining:
    return training_of(trial_config, store)


@pytest.mark.parametrize("pairing", ["position", "class_mean"])
@pytest.mark.parametrize(
    ("term", "parts"),
    [
        ("hinge", {"trunk", "adversarial head"}),
        ("adc", {"trunk", "adc head"}),
        ("trans", {"trunk", "regressor"}),
        ("blend", {"trunk", "regressor"}),
        ("reg", set()),
        ("lecam", {"trunk", "adversarial head"}),
    ],
)
def test_a_term_of_the_discriminator_step_reaches_exactly_its_parts(
    term: str, parts: set[str], pairing: str, trial_config: TrialConfig, store: Store
) -> None:
    config = with_values(trial_config, {"generation.integration.pairing": pairing})
    training = training_with(term, config, store)
    fake, labels, answer = training._generate(0)
    training._update_discriminator(0, fake.detach(), labels, answer)
    assert reached(training) == parts


@pytest.mark.parametrize(
    ("term", "parts"),
    [
        ("hinge", {"generator"}),
        ("adc", {"generator"}),
        ("trans", set()),
        ("blend", set()),
        ("reg", {"generator"}),
        ("consistency", set()),
        ("lecam", set()),
    ],
)
def test_a_term_of_the_generator_step_reaches_exactly_its_parts(
    term: str, parts: set[str], trial_config: TrialConfig, store: Store
) -> None:
    training = training_with(term, trial_config, store)
    training._update_generator(0, *training._generate(0))
    assert reached(training) == parts


def test_consistency_reaches_what_makes_the_score_and_nothing_else(trial_config: TrialConfig, store: Store) -> None:
    training = training_with("consistency", trial_config, store)
    fake, labels, answer = training._generate(0)
    training._update_discriminator(0, fake.detach(), labels, answer)
    assert training.discriminator.adversarial_head.bias.grad.abs().max() < 1e-6, "the same for both views"
    training.discriminator.adversarial_head.bias.grad.fill_(1.0)
    assert reached(training) == {"trunk", "adversarial head"}


@pytest.mark.parametrize("diff_augment", [(), ("color", "translation")])
def test_consistency_shows_the_discriminator_a_moved_view_beside_each_image(
    diff_augment: tuple[str, ...], trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"generation.consistency_weight": 10.0, "generation.diff_augment": diff_augment}
    training = training_of(with_values(trial_config, values), store)
    shown = list[Tensor]()
    training.discriminator.register_forward_pre_hook(lambda _, images: shown.append(images[0].detach()))
    fake, labels, answer = training._generate(0)
    training._update_discriminator(0, fake.detach(), labels, answer)
    assert [len(images) for images in shown] == [4 * 8]
    plain, view = shown[0].chunk(2)
    if not diff_augment:
        torch.testing.assert_close(plain[:8], training._real_batch(0)[0])
        torch.testing.assert_close(plain[8:], fake.detach())
    assert not torch.equal(plain, view)
    # A shift by up to 1/8 of 28 pixels leaves the middle inside: some shift of it, or of its mirror image, is there.
    for image, moved in zip(plain, view, strict=True):
        parts = [part[:, 4:-4, 4:-4] for part in (image, image.flip(2))]
        windows = moved.unfold(1, 20, 1).unfold(2, 20, 1)
        assert any((windows == part[:, None, None]).flatten(3).all(dim=3).any() for part in parts)


def test_teacher_is_asked_in_the_steps_that_are_due_and_its_terms_have_their_weight_so_many_times(
    trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_values(trial_config, {"generation.teacher_terms_every": 3, "generation.discriminator_steps": 2})
    training = training_of(config, store)
    terms = [{"trans", "blend", "reg", "teacher_agreement"} & training.step(16 * step).keys() for step in range(7)]
    assert [len(found) for found in terms] == [4, 0, 0, 4, 0, 0, 4]


@pytest.mark.parametrize("term", ["trans", "blend", "reg"])
def test_term_of_the_teacher_has_its_weight_times_the_steps_that_it_stands_for(
    term: str, trial_config: TrialConfig, store: Store
) -> None:
    lazy = training_with(term, with_values(trial_config, {"generation.teacher_terms_every": 4}), store)
    heavy = training_with(term, trial_config, store)
    heavy.settings = with_values(heavy.config, {f"generation.{WEIGHTS[term]}": 4.0}).generation
    for training in (lazy, heavy):
        fake, labels, answer = training._generate(0)
        training._update_discriminator(0, fake.detach(), labels, answer)
        training._update_generator(0, fake, labels, answer)
    for name, parameters in parts_of(lazy).items():
        for one, two in zip(parameters, parts_of(heavy)[name], strict=True):
            torch.testing.assert_close(one.grad, two.grad)


def test_images_of_steps_without_the_teacher_count_for_the_next_update_of_the_frequencies(
    trial_config: TrialConfig, store: Store
) -> None:
    batch = trial_config.generation.batch_images
    lazy = {"generation.teacher_terms_every": 3, "generation.smoothing.update_images": 100 * batch}
    training = training_of(with_values(trial_config, lazy), store)
    step_images = batch * training.settings.discriminator_steps
    for step in range(6):
        training.step(step * step_images)
    assert training.smoothing.pending_images.item() == 6 * batch
    assert training.smoothing.pending.sum().item() == 6 * batch


def test_a_step_leaves_gradients_of_the_generator_loss_in_the_generator_alone(training: AdversarialTraining) -> None:
    training.step(0)
    training.optimizer_d.zero_grad()
    training._update_generator(8, *training._generate(8))
    assert reached(training) == {"generator"}


def test_a_step_moves_every_network_and_the_frequencies_but_never_the_teacher(training: AdversarialTraining) -> None:
    before = {name: [p.clone() for p in part] for name, part in parts_of(training).items()}
    statistics = [tensor.clone() for tensor in training.teacher.buffers()]
    for step in range(4):
        training.step(8 * step)
    for name, part in parts_of(training).items():
        moved = [not torch.equal(a, b) for a, b in zip(before[name], part, strict=True)]
        assert moved == [name != "teacher"] * len(part), name
    assert all(torch.equal(a, b) for a, b in zip(statistics, training.teacher.buffers(), strict=True))
    assert not torch.equal(training.smoothing.frequencies, torch.full((3,), 1 / 3))
    assert not torch.equal(training.smoothing.weights, torch.ones(3))


def test_the_average_follows_the_generator_by_its_half_life(training: AdversarialTraining) -> None:
    training.step(0)  # a copy: the ramp begins at nothing
    for average, value in zip(training.ema.parameters(), training.generator.parameters(), strict=True):
        torch.testing.assert_close(average, value)
    before = [average.clone() for average in training.ema.parameters()]
    training.step(8)  # half life 0.5 x 8 images, a step of 8
    for old, average, value in zip(before, training.ema.parameters(), training.generator.parameters(), strict=True):
        torch.testing.assert_close(average, 0.25 * old + 0.75 * value)


def test_ema_is_a_copy_until_its_start_and_then_has_its_half_life(trial_config: TrialConfig) -> None:
    ema = trial_config.generation.ema.model_copy(update={"ramp": None, "start_images": 100, "half_life_images": 200})
    assert ema_beta(ema, 99, 10) == 0
    assert ema_beta(ema, 100, 200) == pytest.approx(0.5)
    ramped = ema.model_copy(update={"ramp": 0.5, "start_images": 0})
    assert ema_beta(ramped, 0, 10) == 0
    assert ema_beta(ramped, 40, 20) == pytest.approx(0.5)
