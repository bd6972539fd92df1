"""Device and precision that a run gets, and how a wrong choice is refused; on a GPU, bf16 steps that never wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from hidfd.config.paths import with_values
from hidfd.config.schema import SmoothingConfig, TrialConfig
from hidfd.distributed.device import Device, resolve_device
from hidfd.errors import DeviceError
from hidfd.losses.adc_gan import adc_d, adc_g, hinge_d, hinge_g
from hidfd.losses.distillation import ce_loss, feature_loss, kl_loss
from hidfd.losses.feature_integration import blend_loss_by_class, blend_loss_by_position, trans_loss
from hidfd.losses.frequency_smoothing import FrequencySmoothing
from hidfd.pipeline.observer import Observer
from hidfd.stages.distillation import StudentTraining
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.store.store import Store
from hidfd.training.loop import SKIPPED
from hidfd.trial import Trial


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def some_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    yield
    for backend, precision in zip(backends, before, strict=True):
        backend.fp32_precision = precision


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
    "reg": lambda a, b: FrequencySmoothing(SmoothingConfig(), 6).loss(a),
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


@contextmanager
def no_waiting() -> Iterator[None]:
    """Make it an error, inside the block, that the host waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def gpu_trial(trial_config: TrialConfig, store: Store) -> Trial:
    """A trial in bf16 with every loss term on, built up to its collection."""
    values = {"precision": "bf16", "distillation.kl_weight": 1.0, "distillation.ce_weight": 1.0}
    trial = Trial(with_values(trial_config, values), store, resolve_device("cuda", "bf16"), Observer())
    trial.run("collection")
    return trial


def check_step(metrics: dict[str, Tensor], terms: set[str], *networks: nn.Module) -> None:
    """Check for finite losses in fp32, no skipped step, and weights that are still in fp32."""
    assert terms <= set(metrics)
    for name, value in metrics.items():
        assert value.dtype == torch.float32, name
        assert value.isfinite(), name
    assert metrics[SKIPPED] == 0
    for network in networks:
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        assert all(parameter.isfinite().all() for parameter in network.parameters())


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # torch warns each time that it is a prototype
@pytest.mark.parametrize("pairing", ["position", "class_mean"])
def test_gan_step_in_bf16_has_finite_fp32_losses_and_never_waits_for_the_gpu(gpu_trial: Trial, pairing: str) -> None:
    config = with_values(gpu_trial.config, {"generation.integration.pairing": pairing, "generation.flip": True})
    training = AdversarialTraining(config, gpu_trial.inputs.collection, gpu_trial.inputs.teacher, gpu_trial.device)
    fake, _, answer = training._generate(0)
    assert fake.dtype == torch.float32, "images leave G in fp32"
    assert answer is not None
    assert answer.logits.dtype == torch.bfloat16
    training.step(0)  # handles and workspaces of the libraries
    before = [parameter.clone() for parameter in training.generator.parameters()]
    with no_waiting():
        metrics = training.step(8)
    terms = {"hinge_d", "adc_d", "trans", "blend", "hinge_g", "adc_g", "reg"}
    check_step(metrics, terms, training.generator, training.discriminator, training.regressor, training.ema)
    assert not any(torch.equal(a, b) for a, b in zip(before, training.generator.parameters(), strict=True))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_kd_step_in_bf16_has_finite_fp32_losses_and_never_waits_for_the_gpu(gpu_trial: Trial) -> None:
    synthetic = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8)
    training = StudentTraining(
        gpu_trial.config, gpu_trial.inputs.collection, synthetic, gpu_trial.inputs.teacher, gpu_trial.device
    )
    training.step(0)
    before = training.student.backbone.get_parameter("conv1.weight").clone()
    with no_waiting():
        metrics = training.step(16)
    check_step(metrics, {"feature", "kl", "ce", "total"}, training.student, gpu_trial.inputs.teacher)
    assert not torch.equal(before, training.student.backbone.get_parameter("conv1.weight"))
