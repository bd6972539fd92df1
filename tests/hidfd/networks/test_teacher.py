"""The frozen teacher: gradients to images alone, folded batch norms, one normalisation, one resize, a head to share."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hidfd.data.pixels import unit_from_uint8
from hidfd.distributed.device import Device
from hidfd.errors import InputError
from hidfd.networks.backbone import Backbone
from hidfd.networks.backbones.cifar_resnet import CifarResNet
from hidfd.networks.build import build_backbone
from hidfd.networks.teacher import MAX_REMEMBERED, Teacher, check_shareable
from tests.hidfd.trial_folders import quick_config

CPU = Device(torch.device("cpu"), "fp32")

FAMILIES = (
    *("resnet8", "wrn-16-1", "resnet18-32px", "resnet8x4"),
    *("vgg8", "mobilenetv2-32px", "shufflenetv1-32px", "shufflenetv2-32px"),
)
"""One network of each builder."""


def seasoned(network: Backbone) -> Backbone:
    """Give a network batch-norm statistics, gains and biases as training leaves them: none at its neutral value."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.get_buffer("running_mean"), -0.5, 0.5)
            nn.init.uniform_(layer.get_buffer("running_var"), 0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return network


def teacher_of(architecture: str = "resnet8", channels: int = 1, size_pixels: int = 28) -> Teacher:
    torch.manual_seed(0)
    width = 8 if architecture == "resnet8" else None
    backbone = seasoned(build_backbone(architecture, num_classes=10, channels=channels, width=width))
    return Teacher(backbone, [0.2, 0.4, 0.6][:channels], [0.5, 0.25, 0.3][:channels], size_pixels)


def images(channels: int = 1, size_pixels: int = 28, count: int = 4) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, size_pixels, size_pixels), generator=draws, dtype=torch.uint8)


@pytest.mark.parametrize("size_pixels", [28, 20])
def test_gradients_reach_every_pixel_and_never_the_teacher(size_pixels: int) -> None:
    teacher = teacher_of()
    image_unit = unit_from_uint8(images(size_pixels=size_pixels)).requires_grad_()
    output = teacher(image_unit)
    (output.logits.square().sum() + output.pooled.sum() + output.feature_map.sum()).backward()
    assert image_unit.grad is not None
    assert (image_unit.grad != 0).all()
    for name, parameter in teacher.named_parameters():
        assert not parameter.requires_grad, name
        assert parameter.grad is None, name


def test_teacher_stays_in_eval_mode_whatever_is_called_and_its_statistics_never_move() -> None:
    teacher = teacher_of()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    image_unit = unit_from_uint8(images())
    expected = teacher(image_unit).logits
    holder = nn.ModuleDict({"teacher": teacher, "student": nn.Linear(1, 1)})
    for call in (teacher.train, lambda: teacher.train(True), holder.train):
        call()
        assert not any(module.training for module in teacher.modules())
        assert torch.equal(teacher(image_unit).logits, expected)
    assert holder["student"].training
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "size_pixels"),
    [("resnet8", 28), ("resnet18", 64), ("vgg8", 64), ("mobilenetv2", 64), *((name, 32) for name in FAMILIES)],
)
def test_folded_batch_norms_give_the_networks_own_logits(architecture: str, size_pixels: int) -> None:
    teacher = teacher_of(architecture, 3, size_pixels)
    image_normalised = teacher.normalised(unit_from_uint8(images(3, size_pixels)))
    with torch.no_grad():
        own = teacher.backbone(image_normalised)
        output = teacher.ask(image_normalised)
        feature_map = teacher.backbone.forward_map(image_normalised)
    assert own.std() > 0.01, "logits that say nothing would agree whatever was done to them"
    torch.testing.assert_close(output.logits, own, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.feature_map, feature_map, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.pooled, output.feature_map.mean(dim=(2, 3)))


def test_no_batch_norm_is_left_where_every_one_follows_a_convolution() -> None:
    kinds = {type(layer) for layer in teacher_of().map_network.modules()}
    assert nn.Conv2d in kinds
    assert nn.BatchNorm2d not in kinds


class HiddenLayerHead(CifarResNet):
    """A network whose logits are not those of its classifier on the pooled map."""

    def forward(self, image_normalised: Tensor) -> Tensor:
        pooled = self.forward_map(image_normalised).mean(dim=(2, 3))
        logits: Tensor = self.classifier(torch.tanh(pooled))
        return logits


@pytest.mark.parametrize("architecture", FAMILIES)
def test_teacher_that_is_stored_in_bf16_answers_to_the_bit_as_autocast_alone(architecture: str) -> None:
    torch.manual_seed(0)
    backbone = seasoned(build_backbone(architecture, num_classes=10, channels=3))
    image_unit = torch.rand(4, 3, 32, 32)
    answers = []
    for stored in ("fp32", "bf16"):
        teacher = Teacher(backbone, [0.5] * 3, [0.25] * 3, 32).on(Device(torch.device("cpu"), stored))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answers.append(teacher(image_unit))
        kept = {
            p.dtype
            for layer in teacher.map_network.modules()
            if isinstance(layer, nn.Conv2d)
            for p in layer.parameters()
        }
        assert kept == {torch.bfloat16 if stored == "bf16" else torch.float32}
        assert teacher.backbone.classifier.weight.dtype == torch.float32, "students share it"
    assert answers[0].feature_map.dtype == torch.bfloat16
    assert torch.equal(answers[0].feature_map, answers[1].feature_map)
    assert torch.equal(answers[0].logits, answers[1].logits)


def test_head_that_is_not_the_classifier_of_the_pooled_map_is_refused_with_the_way_out() -> None:
    torch.manual_seed(0)
    teacher = Teacher(HiddenLayerHead(8, 8, 10, 1), [0.2], [0.5], 28)
    with pytest.raises(InputError, match=r"teacher\.architecture resnet14: .*cannot be shared") as caught:
        check_shareable(teacher, quick_config())
    assert "trial.distillation.head=own" in str(caught.value)


def test_teacher_whose_answer_is_no_number_is_refused() -> None:
    teacher = teacher_of()
    teacher.backbone.classifier.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="nan"):
        check_shareable(teacher, quick_config())


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_has_a_head_that_can_be_shared(architecture: str) -> None:
    check_shareable(teacher_of(architecture), quick_config())


def test_images_are_normalised_once_and_by_channel() -> None:
    teacher = teacher_of(channels=3)
    image_uint8 = images(3)
    seen: list[Tensor] = []
    teacher.map_network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    teacher(unit_from_uint8(image_uint8))
    teacher.ask_all(image_uint8, CPU)
    expected = image_uint8.float() / 255
    expected = (expected - torch.tensor([0.2, 0.4, 0.6])[:, None, None]) / torch.tensor([0.5, 0.25, 0.3])[:, None, None]
    assert len(seen) == 2
    for image_normalised in seen:
        torch.testing.assert_close(image_normalised, expected)


@pytest.mark.parametrize("size_pixels", [20, 28, 56])
def test_images_of_any_side_are_seen_at_the_teachers_own(size_pixels: int) -> None:
    teacher = teacher_of()
    image_unit = unit_from_uint8(images(size_pixels=size_pixels))
    resized = nn.functional.interpolate(image_unit, size=(28, 28), mode="bilinear", antialias=True)
    expected = image_unit if size_pixels == 28 else resized
    torch.testing.assert_close(teacher.normalised(image_unit), (expected - 0.2) / 0.5)


def test_many_images_are_answered_in_order_whatever_the_batch() -> None:
    teacher, image_uint8 = teacher_of(), images(count=7)
    whole, parts = teacher.ask_all(image_uint8, CPU), teacher.ask_all(image_uint8, CPU, batch_images=3)
    one_by_one = torch.cat([teacher(unit_from_uint8(image[None])).logits for image in image_uint8])
    assert whole.logits.dtype == whole.pooled.dtype == torch.float32
    assert whole.feature_map.numel() == 0
    assert whole.pooled.shape == (7, 32)
    torch.testing.assert_close(parts.logits, whole.logits)
    torch.testing.assert_close(parts.pooled, whole.pooled)
    torch.testing.assert_close(one_by_one, whole.logits)


def test_images_that_students_are_judged_on_are_asked_about_once_per_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hidfd.networks.teacher._remembered", {})
    asked: list[int] = []
    first, other, nameless = teacher_of(), teacher_of("resnet14"), teacher_of()
    first.digest, other.digest = "a" * 64, "b" * 64
    for teacher in (first, other, nameless):
        own = teacher.ask_all

        def counted(images_uint8: Tensor, device: Device, own: Any = own) -> Any:
            asked.append(len(images_uint8))
            return own(images_uint8, device)

        monkeypatch.setattr(teacher, "ask_all", counted)
    holdout, validation = images(count=4), images(count=6)
    for _ in range(2):
        for teacher in (first, other, nameless):
            for pixels in (holdout, validation):
                with torch.no_grad():
                    expected = teacher(unit_from_uint8(pixels)).logits
                torch.testing.assert_close(teacher.logits_of(pixels, CPU), expected)
    assert asked == [4, 6, 4, 6, 4, 6, 4, 6], "twice by the one without a digest, else once"


def test_only_the_newest_few_answers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered: dict[Any, Tensor] = {}
    monkeypatch.setattr("hidfd.networks.teacher._remembered", remembered)
    teacher = teacher_of()
    teacher.digest = "a" * 64
    for count in range(1, MAX_REMEMBERED + 4):
        teacher.logits_of(images(count=count), CPU)
    assert [len(logits) for logits in remembered.values()] == list(range(4, MAX_REMEMBERED + 4))
