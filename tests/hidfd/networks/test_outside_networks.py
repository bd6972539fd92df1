"""Where the features of a network from elsewhere end is found; what has no such place is refused."""

import pytest
import torch
from torch import Tensor, nn

from hidfd.errors import InputError
from hidfd.networks.backbones.traced_network import TracedNetwork
from hidfd.networks.build import build_backbone
from hidfd.networks.teacher import Teacher


def traced(network: nn.Module, *, num_classes: int = 3) -> TracedNetwork:
    return TracedNetwork(network, "mine", num_classes, torch.randn(2, 3, 16, 16))


def trunk() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())


class Pooled(nn.Module):
    """A network of the usual build; subclasses change what its forward pass does."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk()
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk(image).mean((2, 3)))
        return logits


class Hidden(Pooled):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


class Branching(Pooled):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image if image.mean() > 0 else -image)


class Twice(Pooled):
    def forward(self, image: Tensor) -> Tensor:
        return 2 * super().forward(image)


class AsksForMode(Pooled):
    def forward(self, image: Tensor) -> Tensor:
        features = nn.functional.dropout(self.trunk(image).mean((2, 3)), 0.5, self.training)
        logits: Tensor = self.head(features)
        return logits


class Named(Pooled):
    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # what is tried here
        return {"logits": super().forward(image)}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torchvision:resnet18", (512, 2, 2)),
        ("torchvision:efficientnet_b0", (1280, 2, 2)),
        ("torchvision:densenet121", (1024, 2, 2)),
        ("torchvision:mnasnet0_5", (1280, 2, 2)),
        ("torchvision:regnet_y_400mf", (440, 2, 2)),
        ("torchvision:mobilenet_v3_small", (1024, 1, 1)),
        ("timm:test_resnet", (96, 2, 2)),
        ("timm:test_convnext", (64, 1, 1)),
        ("timm:test_efficientnet", (256, 2, 2)),
        ("timm:mobilenetv3_small_050", (1024, 1, 1)),
    ],
)
@pytest.mark.parametrize("channels", [1])
def test_the_last_map_is_found_and_its_mean_gives_the_logits(name: str, shape: tuple[int, ...], channels: int) -> None:
    torch.manual_seed(0)
    network = build_backbone(name, num_classes=7, channels=channels, image_size_pixels=64).eval()
    image = torch.randn(2, channels, 64, 64)
    with torch.no_grad():
        feature_map, logits = network.forward_map(image), network(image)
    assert feature_map.shape == (2, *shape)
    assert network.feature_width == shape[0]
    torch.testing.assert_close(network.classifier(feature_map.mean(dim=(2, 3))), logits)


def test_the_map_is_the_one_that_the_mean_is_taken_of() -> None:
    network = Pooled().eval()
    image = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(traced(network).forward_map(image), network.trunk(image))


def test_a_head_with_a_hidden_layer_is_compared_by_the_vector_before_its_last_layer() -> None:
    network = traced(Hidden())
    assert not network.is_map
    assert network.forward_map(torch.randn(4, 3, 16, 16)).shape == (4, 5, 1, 1)


def test_weights_keep_their_published_names() -> None:
    network = Pooled()
    assert list(traced(network).published.state_dict()) == list(network.state_dict())


def test_a_network_follows_train_and_eval_mode() -> None:
    network = traced(Pooled())
    image = torch.randn(4, 3, 16, 16)
    network.train()
    before = network.published.get_buffer("trunk.1.running_mean").clone()
    network.forward_map(image)
    assert not torch.equal(network.published.get_buffer("trunk.1.running_mean"), before)
    network.eval()
    torch.testing.assert_close(network(image), network(image))


def test_a_teacher_of_any_build_answers_as_its_network_does() -> None:
    network = Hidden().eval()
    image = torch.rand(4, 3, 16, 16)
    answer = Teacher(traced(network), [0.0] * 3, [1.0] * 3, 16)(image)
    torch.testing.assert_close(answer.logits, network(image))
    assert answer.pooled.shape == (4, 5)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Branching(), "could not be followed for images of 3x16x16 .*it may ask for shapes and settings"),
        (AsksForMode(), "asks whether it is trained .*nn.Dropout instead of F.dropout"),
        (Twice(), "its output is not that of its last linear layer, head.1"),
        (Named(), "its output is not that of its last linear layer"),
        (nn.Sequential(trunk(), nn.Conv2d(6, 3, 1), nn.Flatten()), "it has none"),
        (nn.Sequential(trunk(), nn.Flatten(), nn.Linear(6, 3)), "could not be followed for images of 3x16x16"),
    ],
)
def test_a_network_without_features_to_compare_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        traced(network)


def test_a_network_of_other_classes_says_how_many_it_has() -> None:
    with pytest.raises(InputError, match="with 10 outputs, one for each class; its last one has 3"):
        traced(Pooled(), num_classes=10)


def test_a_transformer_is_compared_by_the_vector_that_its_classifier_reads() -> None:
    network = build_backbone("timm:test_vit", num_classes=7, channels=3, image_size_pixels=160).eval()
    image = torch.randn(2, 3, 160, 160)
    assert network.forward_map(image).shape == (2, 64, 1, 1)
    torch.testing.assert_close(network.classifier(network.forward_map(image).mean(dim=(2, 3))), network(image))
    with pytest.raises(InputError, match="cannot take images of 3x64x64"):
        build_backbone("timm:vit_tiny_patch16_224", num_classes=7, channels=3, image_size_pixels=64)
