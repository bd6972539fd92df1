"""Generators and discriminators of every size: shapes, parameters, and gradients that reach every weight."""

import pytest
import torch

from hidfd.networks.backbone import num_parameters
from hidfd.networks.discriminator import build_discriminator
from hidfd.networks.generator import build_generator
from hidfd.networks.layers import SelfAttention

SIZES = (28, 32, 64)
KINDS = [("light", False), ("residual", False), ("residual", True)]


@pytest.mark.parametrize(("networks", "has_attention"), KINDS)
@pytest.mark.parametrize("size_pixels", SIZES)
def test_images_have_their_size_and_every_weight_of_both_networks_is_trained(
    networks: str, has_attention: bool, size_pixels: int
) -> None:
    torch.manual_seed(0)
    shape = {"image_size_pixels": size_pixels, "width": 8, "num_classes": 5, "channels": 3}
    generator = build_generator(networks, **shape, latent_dim=12, has_attention=has_attention)
    discriminator = build_discriminator(networks, **shape, has_attention=has_attention)
    for network in (generator, discriminator):
        for layer in network.modules():
            if isinstance(layer, SelfAttention):
                torch.nn.init.ones_(layer.gain)  # 0 at first, where nothing before it would be trained
    images = generator(torch.randn(6, 12), torch.tensor([0, 1, 2, 3, 4, 0]))
    assert images.shape == (6, 3, size_pixels, size_pixels)
    assert images.abs().max() <= 1
    output = discriminator(images)
    assert output.features.shape == (6, discriminator.feature_width)
    assert (output.adversarial.shape, output.adc.shape) == ((6,), (6, 10))
    (output.adversarial.square().sum() + output.adc.square().sum()).backward()
    for network in (generator, discriminator):
        idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not idle


@pytest.mark.parametrize(
    ("networks", "size_pixels", "width", "of_generator", "of_discriminator"),
    [("residual", 32, 256, 4.30, 4.21), ("residual", 64, 256, 5.56, 5.46), ("light", 64, 32, 0.87, 0.32)],
)
def test_networks_have_the_parameters_that_are_documented(
    networks: str, size_pixels: int, width: int, of_generator: float, of_discriminator: float
) -> None:
    shape = {"image_size_pixels": size_pixels, "width": width, "num_classes": 10, "channels": 3}
    with torch.device("meta"):
        generator = build_generator(networks, **shape, latent_dim=128)
        discriminator = build_discriminator(networks, **shape)
    assert num_parameters(generator) / 1e6 == pytest.approx(of_generator, abs=0.01)
    assert num_parameters(discriminator) / 1e6 == pytest.approx(of_discriminator, abs=0.01)


def test_attention_is_nothing_at_first_and_mixes_distant_pixels_later() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8)
    features = torch.randn(1, 8, 6, 6, requires_grad=True)
    assert torch.equal(attention(features), features)
    torch.nn.init.ones_(attention.gain)
    (gradient,) = torch.autograd.grad(attention(features)[0, :, 0, 0].sum(), features)
    assert gradient[0, :, -2:, -2:].abs().sum() > 0
