"""Networks of the table: published parameters and operations, the contract of the last map, torchvision's weights."""

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hidfd.config.architectures import ARCHITECTURES
from hidfd.formatting import meant_or_known
from hidfd.networks.backbone import Backbone, num_parameters
from hidfd.networks.build import build_backbone
from hidfd.networks.layers import thin_out

LAST_DIGIT = 0.01
"""Sources give two decimals of a million, and some cut where others round, so a count may be off by one last digit."""

MAPS = {
    "resnet8": (64, 8),
    "resnet20": (64, 8),
    "wrn-16-1": (64, 8),
    "wrn-16-2": (128, 8),
    "resnet18-32px": (512, 4),
    "resnet18": (512, 1),
    "resnet50-32px": (2048, 4),
    "resnet8x4": (256, 8),
    "vgg8": (512, 4),
    "mobilenetv2": (1280, 1),
    "mobilenetv2-32px": (1280, 4),
    "shufflenetv1-32px": (960, 4),
    "shufflenetv2-32px": (1024, 4),
}
"""One or two architectures of each family -> width and side of the last map of a 32-px image."""


def shapes_only(architecture: str) -> Backbone:
    """Return the published network without the values of its weights, which are not needed here."""
    with torch.device("meta"):
        return build_backbone(
            architecture, num_classes=ARCHITECTURES[architecture].published_classes, channels=3
        ).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_network_has_the_published_number_of_parameters(architecture: str) -> None:
    millions = num_parameters(shapes_only(architecture)) / 1e6
    assert millions == pytest.approx(ARCHITECTURES[architecture].published_parameters, abs=LAST_DIGIT)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_network_takes_the_operations_that_the_table_plans_with(architecture: str) -> None:
    row = ARCHITECTURES[architecture]
    with FlopCounterMode(display=False) as counter:
        shapes_only(architecture)(torch.empty(1, 3, row.native_size_pixels, row.native_size_pixels, device="meta"))
    assert counter.get_total_flops() == pytest.approx(row.forward_gflops * 1e9, rel=0.1)


@pytest.mark.parametrize(("size_pixels", "width"), [(28, 16), (32, 8), (64, 16)])
def test_operations_at_another_size_and_width_are_as_the_table_scales_them(size_pixels: int, width: int) -> None:
    with torch.device("meta"):
        network = build_backbone("resnet20", num_classes=10, channels=3, width=width).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, size_pixels, size_pixels))
    planned = ARCHITECTURES["resnet20"].forward_flops(size_pixels, width)
    assert counter.get_total_flops() == pytest.approx(planned, rel=0.1)


@pytest.mark.parametrize(("architecture", "channels"), [(name, 3) for name in MAPS] + [(name, 1) for name in MAPS])
def test_classifier_of_the_pooled_map_gives_the_logits(architecture: str, channels: int) -> None:
    torch.manual_seed(0)
    network = build_backbone(architecture, num_classes=7, channels=channels).eval()
    image_normalised = torch.randn(2, channels, 32, 32)
    with torch.no_grad():
        feature_map, logits = network.forward_map(image_normalised), network(image_normalised)
    width, side = MAPS[architecture]
    assert network.feature_width == width
    assert feature_map.shape == (2, width, side, side)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(network.classifier(feature_map.mean(dim=(2, 3))), logits)


@pytest.mark.parametrize("architecture", MAPS)
def test_network_without_its_classifier_has_fewer_parameters_and_the_same_map(architecture: str) -> None:
    torch.manual_seed(0)
    network = build_backbone(architecture, num_classes=7, channels=3).eval()
    image_normalised, before = torch.randn(1, 3, 32, 32), num_parameters(network)
    of_classifier = num_parameters(network.classifier)
    with torch.no_grad():
        feature_map = network.forward_map(image_normalised)
        network.drop_classifier()
        assert torch.equal(network.forward_map(image_normalised), feature_map)
    assert num_parameters(network) == before - of_classifier


@pytest.mark.parametrize("architecture", MAPS)
def test_last_map_is_never_negative_so_that_a_projector_may_end_in_a_relu(architecture: str) -> None:
    torch.manual_seed(0)
    network = build_backbone(architecture, num_classes=3, channels=1).eval()
    with torch.no_grad():
        feature_map = network.forward_map(torch.randn(2, 1, 28, 28))
    assert feature_map.min() == 0
    assert feature_map.max() > 0


@pytest.mark.parametrize("width", [1, 8, 24])
def test_width_is_that_of_the_first_stage_and_doubles_twice(width: int) -> None:
    network = build_backbone("resnet8", num_classes=3, channels=1, width=width).eval()
    assert network.get_parameter("conv1.weight").shape == (width, 1, 3, 3)
    assert network.feature_width == network.classifier.in_features == 4 * width
    assert network.forward_map(torch.randn(1, 1, 28, 28)).shape == (1, 4 * width, 7, 7)


def test_width_that_is_not_given_is_the_published_one() -> None:
    assert num_parameters(build_backbone("resnet8", num_classes=10, channels=3)) == num_parameters(
        build_backbone("resnet8", num_classes=10, channels=3, width=ARCHITECTURES["resnet8"].width)
    )


def test_only_the_family_that_scales_is_said_to_have_a_width_setting() -> None:
    for name in MAPS:
        row = ARCHITECTURES[name]
        with torch.device("meta"):
            plain = build_backbone(name, num_classes=3, channels=1)
            wider = build_backbone(name, num_classes=3, channels=1, width=2 * row.width)
        assert (num_parameters(wider) > num_parameters(plain)) == row.has_width_setting, name


@pytest.mark.parametrize(
    ("architecture", "theirs"),
    [
        *((name, name) for name in ("resnet18", "resnet34", "resnet50")),
        *(("mobilenetv2", "mobilenet_v2"), ("shufflenetv2", "shufflenet_v2_x1_0")),
    ],
)
def test_state_dict_of_torchvision_loads_unchanged_and_gives_its_logits(architecture: str, theirs: str) -> None:
    torch.manual_seed(0)
    original = getattr(torchvision.models, theirs)(weights=None).eval()
    network = build_backbone(architecture, num_classes=1000, channels=3).eval()
    network.load_state_dict(original.state_dict())
    image_normalised = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(image_normalised), original(image_normalised), rtol=0, atol=0)


def test_fresh_weights_differ_by_seed_and_repeat_with_it() -> None:
    def convolution(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_backbone("wrn-16-1", num_classes=3, channels=1).get_parameter("conv1.weight")

    assert torch.equal(convolution(1), convolution(1))
    assert not torch.equal(convolution(1), convolution(2))


@pytest.mark.parametrize("architecture", [name for name in MAPS if ARCHITECTURES[name].native_size_pixels == 32])
def test_every_parameter_but_none_of_the_statistics_is_trained(architecture: str) -> None:
    torch.manual_seed(0)
    network = build_backbone(architecture, num_classes=3, channels=3)
    nn.functional.cross_entropy(network(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0])).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("wrn-40-3", "wrn-40-2"),
        ("resnet18_32px", "resnet18-32px"),
        ("resnet-50", "resnet50"),
        ("mobilenet_v2", "mobilenetv2"),
    ],
)
def test_mistyped_name_finds_its_nearest(typed: str, meant: str) -> None:
    assert meant in meant_or_known(typed, ARCHITECTURES)


@pytest.mark.parametrize(("side_pixels", "side"), [(28, 3), (32, 4), (63, 7), (64, 4), (96, 12)])
def test_vgg_halves_images_of_64_pixels_alone_once_more(side_pixels: int, side: int) -> None:
    network = build_backbone("vgg8", num_classes=3, channels=1).eval()
    assert network.forward_map(torch.randn(1, 1, side_pixels, side_pixels)).shape == (1, 512, side, side)


@pytest.mark.parametrize("side", [7, 8])
def test_thinned_out_map_is_every_second_pixel_and_its_gradient_keeps_the_layout(side: int) -> None:
    features = torch.randn(2, 3, side, side).to(memory_format=torch.channels_last).requires_grad_()
    thinned = thin_out(features, 2)
    assert torch.equal(thinned, features[:, :, ::2, ::2])
    (gradient,) = torch.autograd.grad(thinned.sum(), features)  # as it comes: a leaf would be given its own layout
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert gradient.sum() == thinned.numel()
