"""Samples of the EMA generator: undisturbing, and never with stale batch-norm statistics."""

import pytest
import safetensors.torch
import torch
from torch import nn

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.data.pixels import resize_unit, uint8_from_unit, unit_from_uint8
from hidfd.distributed.device import resolve_device
from hidfd.networks.discriminator import build_discriminator
from hidfd.networks.generator import build_generator
from hidfd.pipeline.observer import Observer
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.stages.generator_samples import GeneratorProbe
from hidfd.store.store import Store
from hidfd.trial import Trial


@pytest.fixture
def trial(trial_config: TrialConfig, store: Store) -> Trial:
    trial = Trial(trial_config, store, resolve_device("cpu", "fp32"), Observer())
    trial.run("collection")
    return trial


@pytest.fixture
def probe(trial: Trial) -> GeneratorProbe:
    training = AdversarialTraining(trial.config, trial.inputs.collection, trial.inputs.teacher, trial.device)
    training.step(0)
    for parameter in training.ema.parameters():
        parameter.data.mul_(5.0)  # after one step its images are grey to the last pixel, whatever the statistics
    return GeneratorProbe(training, trial.inputs.collection)


def make_statistics_stale(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.get_buffer("running_mean").fill_(3.0)
            layer.get_buffer("running_var").fill_(50.0)


def test_sampling_does_not_disturb_the_training(probe: GeneratorProbe) -> None:
    networks = (probe.training.generator, probe.training.discriminator)
    before = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]
    probe.sample_grid()
    probe.proxies()
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_grid_and_proxies_do_not_depend_on_stale_statistics(probe: GeneratorProbe) -> None:
    grid, proxies = probe.sample_grid(), probe.proxies()
    make_statistics_stale(probe.training.ema)
    assert torch.equal(probe.sample_grid(), grid)
    make_statistics_stale(probe.training.ema)
    assert probe.proxies() == proxies


def test_the_stored_generator_has_the_statistics_of_its_own_weights(trial: Trial, probe: GeneratorProbe) -> None:
    trial.run("generation")
    stored = safetensors.torch.load_file(trial.inputs.artifact("generation").path("generator.safetensors"))
    probe.training.ema.load_state_dict(stored)
    make_statistics_stale(probe.training.ema)
    probe.reestimate_statistics()
    for name, tensor in probe.training.ema.state_dict().items():
        torch.testing.assert_close(tensor, stored[name])


def test_unseen_images_are_no_copies_whatever_the_size_of_the_generator(
    trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = with_values(
        trial_config, {"data.image_size_pixels": 64, "collection.holdout_images": 100, "collection.mode": "random"}
    )
    trial = Trial(larger, store, resolve_device("cpu", "fp32"), Observer())
    trial.run("collection")
    training = AdversarialTraining(trial.config, trial.inputs.collection, trial.inputs.teacher, trial.device)
    probe = GeneratorProbe(training, trial.inputs.collection)
    unseen = resize_unit(unit_from_uint8(trial.inputs.collection.holdout), 28)
    monkeypatch.setattr(probe, "sample", lambda z, labels: uint8_from_unit(unseen))
    measured = probe.proxies()
    for space in ("memorisation", "memorisation_pixels"):
        assert measured[space] is not None
        assert measured[space] < 0.15, space


@pytest.mark.parametrize("networks", ["light", "residual"])
def test_every_weight_of_the_generator_and_discriminator_starts_as_published(networks: str) -> None:
    torch.manual_seed(0)
    shape = {"image_size_pixels": 28, "width": 16, "num_classes": 10}
    generator = build_generator(networks, latent_dim=32, channels=1, **shape)
    discriminator = build_discriminator(networks, channels=1, **shape)
    for network in (generator, discriminator):
        trained = {
            name: weight
            for name, weight in network.named_parameters()
            if weight.dim() > 1 and "embedding" not in name and "norm" not in name
        }
        assert trained
        for name, weight in trained.items():
            assert weight.std().item() == pytest.approx(0.02, rel=0.25), name
