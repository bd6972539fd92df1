"""Device and precision that a run gets, and how a wrong choice is refused; losses of half-precision outputs."""

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hidfd.config.schema import SmoothingConfig
from hidfd.distributed.device import Device, free_bytes, resolve_device, to_device
from hidfd.errors import DeviceError
from hidfd.losses.adc_gan import adc_d, adc_g, hinge_d, hinge_g
from hidfd.losses.distillation import ce_loss, feature_loss, kl_loss
from hidfd.losses.feature_integration import blend_loss_by_class, blend_loss_by_position, trans_loss
from hidfd.losses.frequency_smoothing import FrequencySmoothing


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def some_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_a_gpu_a_trial_runs_on_the_cpu(name: str) -> None:
    device = resolve_device(name, "fp32")
    assert device == Device(torch.device("cpu"), "fp32")
    assert not device.is_cuda
    assert device.description == f"cpu, {torch.get_num_threads()} threads, fp32"


@pytest.mark.usefixtures("some_gpu")
@pytest.mark.parametrize(("name", "kind"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_with_a_gpu_it_is_taken_unless_the_cpu_is_asked_for(name: str, kind: str) -> None:
    assert resolve_device(name, "fp32") == Device(torch.device(kind), "fp32")


@pytest.mark.usefixtures("some_gpu")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_what_was_asked_for_and_fp32_is_tf32_on_a_gpu(precision: str) -> None:
    assert resolve_device("auto", precision).precision == precision
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"


@pytest.mark.usefixtures("some_gpu")
@pytest.mark.parametrize(("name", "is_chosen"), [("cuda", True), ("cpu", False)])
def test_algorithms_of_convolutions_are_chosen_by_timing_on_a_gpu_alone(name: str, is_chosen: bool) -> None:
    torch.backends.cudnn.benchmark = False
    resolve_device(name, "fp32")
    assert torch.backends.cudnn.benchmark is is_chosen


@pytest.mark.usefixtures("no_gpu")
def test_gpu_that_is_not_there_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(DeviceError, match=r"--device cuda: torch finds no CUDA device here; use --device cpu, or auto"):
        resolve_device("cuda", "fp32")


def test_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DeviceError, match=r"--device mps: unknown device; expected auto, cpu or cuda"):
        resolve_device("mps", "fp32")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_bf16_without_a_gpu_is_refused_with_the_override_to_use(name: str) -> None:
    with pytest.raises(DeviceError, match=r"bf16 on a CPU is .* slower .*add the override trial\.precision=fp32"):
        resolve_device(name, "bf16")


@pytest.mark.usefixtures("some_gpu")
def test_bf16_on_the_cpu_is_refused_even_beside_a_gpu() -> None:
    with pytest.raises(DeviceError, match=r"trial\.precision=fp32, or use a GPU"):
        resolve_device("cpu", "bf16")


def test_cpu_computes_in_fp32_and_keeps_images_and_weights_channels_last() -> None:
    device = resolve_device("cpu", "fp32")
    image = torch.rand(2, 3, 4, 4)
    assert device.put(image) is image
    assert to_device(image, image.device) is image
    placed, convolution = device.images(image), device.module(nn.Conv2d(3, 5, 3))
    assert torch.equal(placed, image)
    assert placed.is_contiguous(memory_format=torch.channels_last)
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    with device.autocast():
        assert convolution(placed).dtype == torch.float32


LABELS = torch.tensor([0, 1, 2, 1])
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hinge_d": lambda a, b: hinge_d(a[:, 0], b[:, 0]),
    "hinge_g": lambda a, b: hinge_g(a[:, 0]),
    "adc_d": lambda a, b: adc_d(a, LABELS, b, LABELS),
    "adc_g": lambda a, b: adc_g(a, LABELS),
    "trans": lambda a, b: trans_loss(a, b, b, a),
    "blend by position": lambda a, b: blend_loss_by_position(a, a, b, b),
    "blend by class": lambda a, b: blend_loss_by_class(a, a, LABELS, b, b, LABELS, 3),
    "reg": lambda a, b: FrequencySmoothing(SmoothingConfig(), torch.arange(6)).loss(a),
    "feature": lambda a, b: feature_loss(a.view(4, 6, 1, 1), b.view(4, 6, 1, 1)),
    "kl": lambda a, b: kl_loss(a, b, 4.0),
    "ce": ce_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_half_precision_outputs_is_computed_in_fp32(name: str) -> None:
    draws = torch.Generator().manual_seed(0)
    one, other = (torch.randn(4, 6, generator=draws).bfloat16() for _ in range(2))
    loss = LOSSES[name](one, other)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[name](one.float(), other.float()))


def test_free_bytes_are_no_more_than_the_machine_has() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = free_bytes(resolve_device("cpu", "fp32"))
    assert free is not None
    assert 0 < free < total
