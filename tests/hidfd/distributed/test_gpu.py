"""Steps on a GPU: the losses of a CPU, precisions, steps that are not finite, and a host that never waits."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.distributed.device import resolve_device
from hidfd.errors import DivergedError
from hidfd.pipeline.observer import Observer
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.store.store import Store
from hidfd.training.gradients import apply_gradients
from hidfd.training.loop import SKIPPED, Schedule, Training, run_loop
from hidfd.trial import run_trial
from tests.hidfd.distributed.gpu import (
    PROTOTYPE,
    SHARES,
    TERMS,
    images_per_step,
    no_waiting,
    no_waiting_between_rows,
    training_of,
)
from tests.hidfd.interruptions import with_own_teacher
from tests.hidfd.miniature import build_world, miniature

pytestmark = pytest.mark.filterwarnings(PROTOTYPE)
GPU = pytest.param("cuda", marks=pytest.mark.gpu)

OF_FP32 = 1e-4
"""Tolerance of a loss, per step taken so far: sums of another order, whose differences the steps enlarge."""

OF_TF32 = 2e-2
"""Tolerance where products have 10 bits of mantissa: 5e-4 each, enlarged by a few layers and steps."""

OF_BF16 = 1e-1
"""Tolerance where products and maps have 7 bits of mantissa: 4e-3 each."""

ALL_TERMS = {"distillation.kl_weight": 1.0, "distillation.ce_weight": 1.0, "generation.flip": True}
STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "teacher": ("teacher", {}),
    "GAN, light, by position": ("generation", {}),
    "GAN, residual, by class": (
        "generation",
        {
            "generation.networks": "residual",
            "generation.image_size_pixels": 32,
            "generation.integration.pairing": "class_mean",
            "generation.discriminator_steps": 2,
        },
    ),
    "student, shared head": ("distillation", {}),
    "student, own head": ("distillation", {"distillation.head": "own", "distillation.feature_weight": 0.0}),
}
"""Steps: stage, and what differs from the trial with every loss term."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    """A trial with every loss term, and a teacher that tells the classes apart."""
    world = build_world(tmp_path_factory.mktemp("world"))
    return with_values(with_own_teacher(miniature(world), world, target_images=480), ALL_TERMS)


@pytest.fixture(scope="module")
def store(config: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the teacher and the collection, built on a CPU; both are the same in all variants of `config`."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    run_trial(config, store, until="collection", device="cpu")
    return store


def take_steps(training: Training, batch: int, count: int) -> list[dict[str, float]]:
    rows = [training.step(number * batch) for number in range(count)]
    return [{name: value.item() for name, value in row.items()} for row in rows]


@pytest.mark.gpu
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(
    ("precision", "of_fp32", "tolerance"),
    [("fp32", "ieee", OF_FP32), ("fp32", "tf32", OF_TF32), ("bf16", "tf32", OF_BF16)],
)
def test_steps_on_a_gpu_have_the_losses_of_a_cpu(
    name: str, precision: str, of_fp32: str, tolerance: float, config: TrialConfig, store: Store
) -> None:
    stage, values = STEPS[name]
    config = with_values(config, values)
    batch = images_per_step(stage, config)
    training, _ = training_of(stage, config, store, resolve_device("cpu", "fp32"))
    expected = take_steps(training, batch, 4)
    device = resolve_device("cuda", precision)
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):
        assert backend.fp32_precision == "tf32"
        backend.fp32_precision = of_fp32
    training, _ = training_of(stage, config, store, device)
    found = take_steps(training, batch, 4)
    for number, (row, other) in enumerate(zip(expected, found, strict=True)):
        assert TERMS[stage] <= row.keys() == other.keys()
        assert row[SKIPPED] == other[SKIPPED] == 0
        for term in row.keys() - SHARES:
            bound = tolerance * (number + 1) if tolerance == OF_FP32 else tolerance
            assert other[term] == pytest.approx(row[term], rel=bound, abs=bound), (number, term)


@pytest.mark.gpu
@pytest.mark.parametrize("name", STEPS)
def test_in_bf16_networks_answer_in_bf16_and_all_that_is_kept_stays_in_fp32(
    name: str, config: TrialConfig, store: Store
) -> None:
    stage, values = STEPS[name]
    config = with_values(config, values)
    training, _ = training_of(stage, config, store, resolve_device("cuda", "bf16"))
    answers: dict[str, set[torch.dtype]] = {}
    for part, network in vars(training).items():
        for layer, module in network.named_modules() if isinstance(network, nn.Module) else ():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.register_forward_hook(
                    lambda _, __, output, key=f"{part}.{layer}": answers.setdefault(key, set()).add(output.dtype)
                )
    batch = images_per_step(stage, config)
    rows = [training.step(0), training.step(batch)]
    assert len(answers) > 5
    assert {key: kinds for key, kinds in answers.items() if kinds != {torch.bfloat16}} == {}
    assert {(key, value.dtype) for row in rows for key, value in row.items() if value.dtype != torch.float32} == set()
    assert all(value.isfinite() for row in rows for value in row.values())
    kept = dict(tensors_of(training.state_dict()))
    assert any("running_mean" in key for key in kept), "statistics are looked at too"
    assert any("state" in key for key in kept), "optimisers are looked at too"
    counts = {"num_batches_tracked"}
    narrow = {key for key, value in kept.items() if value.dtype != torch.float32 and key.split(".")[-1] not in counts}
    assert narrow == set()


def tensors_of(state: Any, where: str = "") -> list[tuple[str, Tensor]]:
    """Return every tensor of nested dicts and lists, with its path."""
    if isinstance(state, Tensor):
        return [(where, state)]
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return [found for key, value in items for found in tensors_of(value, f"{where}.{key}")]


@pytest.mark.gpu
def test_images_leave_the_generator_in_fp32_and_the_teacher_answers_them_in_bf16(
    config: TrialConfig, store: Store
) -> None:
    training, _ = training_of("generation", config, store, resolve_device("cuda", "bf16"))
    assert isinstance(training, AdversarialTraining)
    fake, _, answer = training._generate(0)
    assert fake.dtype == torch.float32
    assert answer is not None
    assert answer.logits.dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", STEPS)
def test_step_moves_the_weights_and_never_waits_for_the_gpu(
    name: str, precision: str, config: TrialConfig, store: Store
) -> None:
    stage, values = STEPS[name]
    config = with_values(config, values)
    training, _ = training_of(stage, config, store, resolve_device("cuda", precision))
    batch = images_per_step(stage, config)
    training.step(0)
    weights = [tensor for optimizer in optimizers_of(training) for tensor in weights_of(optimizer)]
    before = [weight.clone() for weight in weights]
    with no_waiting():
        row = training.step(batch)
    assert all(value.isfinite() for value in row.values())
    assert row[SKIPPED] == 0
    assert not any(torch.equal(old, weight) for old, weight in zip(before, weights, strict=True))


@pytest.mark.gpu
def test_block_without_waiting_notices_a_host_that_waits() -> None:
    tensor = torch.ones((), device="cuda")
    with no_waiting(), pytest.raises(RuntimeError, match="synchroniz"):
        tensor.item()
    assert tensor.item() == 1


def optimizers_of(training: Training) -> list[torch.optim.Optimizer]:
    return [part for part in vars(training).values() if isinstance(part, torch.optim.Optimizer)]


def weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return copies of the weights and of all that the optimiser keeps of them."""
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return [tensor.detach().clone() for tensor in [*weights_of(optimizer), *kept]]


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "Adam": lambda weights: torch.optim.Adam(weights, lr=0.1, fused=True),
    "SGD": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
    "Nesterov": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True, fused=True),
}


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_that_is_not_finite_leaves_weights_and_optimiser_alone_and_the_next_one_is_taken(
    name: str, value: float, bad: str, device: str
) -> None:
    weights = [nn.Parameter(torch.ones(shape, device=device)) for shape in [(3,), (2, 2)]]
    optimizer = OPTIMIZERS[name](weights)
    one, other = torch.ones((), device=device), torch.full((), value, device=device)

    def update(*, is_bad: bool) -> Tensor:
        for number, weight in enumerate(weights):
            weight.grad = torch.ones_like(weight) * (other if is_bad and bad == "gradient" and number else one)
        return apply_gradients(optimizer, [one, other if is_bad and bad == "loss" else one])

    assert update(is_bad=False) == 0
    before = state_of(optimizer)
    with no_waiting():
        skipped = update(is_bad=True)
        after = state_of(optimizer)
    assert skipped == 1
    assert len(before) > len(weights)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert update(is_bad=False) == 0
    assert not any(torch.equal(old, new) for old, new in zip(after, state_of(optimizer), strict=True))


class Poisoned:
    """A training with one step that is not finite; it keeps the optimiser's state before and after this step."""

    def __init__(
        self, training: Training, optimizer: torch.optim.Optimizer, images: int, *, poison: Callable[[bool], None]
    ) -> None:
        self.training, self.optimizer, self.images, self.poison = training, optimizer, images, poison
        self.states: list[list[Tensor]] = []

    def step(self, images_seen: int) -> dict[str, Tensor]:
        if images_seen != self.images:
            return self.training.step(images_seen)
        self.states.append(state_of(self.optimizer))
        self.poison(True)
        row = self.training.step(images_seen)
        self.poison(False)
        self.states.append(state_of(self.optimizer))
        return row

    def state_dict(self) -> dict[str, Any]:
        return self.training.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.training.load_state_dict(state)


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "fp32"),
        pytest.param("cuda", "fp32", marks=pytest.mark.gpu),
        pytest.param("cuda", "bf16", marks=pytest.mark.gpu),
    ],
)
@pytest.mark.parametrize(
    ("stage", "optimizer", "loss", "named"),
    [
        ("teacher", "optimizer", None, "gradients only"),
        ("generation", "optimizer_g", "hidfd.stages.gan_training.hinge_g", "generation/hinge_g"),
        ("generation", "optimizer_d", "hidfd.stages.gan_training.trans_loss", "generation/trans"),
        ("distillation", "optimizer", None, "gradients only"),
        (
            "distillation",
            "optimizer",
            "hidfd.losses.distillation.kl_loss",
            "distillation/kl, distillation/total",
        ),
    ],
)
def test_loop_ends_at_the_end_of_an_interval_with_a_step_that_was_not_finite_and_says_what_was_not(
    stage: str,
    optimizer: str,
    loss: str | None,
    named: str,
    device: str,
    precision: str,
    config: TrialConfig,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training, trial = training_of(stage, config, store, resolve_device(device, precision))
    chosen = getattr(training, optimizer)
    is_poisoned: list[bool] = [False]
    if loss is None:
        weights_of(chosen)[0].register_hook(lambda gradient: gradient * float("nan") if is_poisoned[0] else gradient)
    else:
        module, function = loss.rsplit(".", 1)
        original = getattr(importlib.import_module(module), function)
        monkeypatch.setattr(loss, lambda *args: original(*args) * (float("nan") if is_poisoned[0] else 1.0))
    batch = images_per_step(stage, config)
    poisoned = Poisoned(training, chosen, 2 * batch, poison=lambda state: is_poisoned.__setitem__(0, state))
    step = trial.stages[stage]
    schedule = Schedule(10 * batch, batch, log_every_images=2 * batch, checkpoint_every_seconds=1e6)
    message = rf"not finite in 1 of the 2 steps before {4 * batch} images \({named}\)"
    with no_waiting_between_rows(), no_waiting(), pytest.raises(DivergedError, match=message):
        run_loop(poisoned, step, schedule, store.checkpoints(step.checkpoints), Observer())
    before, after = poisoned.states
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(tensor.isfinite().all() for tensor in after)


def pinned_and_reserved() -> tuple[int | None, int]:
    """Return how often pinned memory and the GPU's were asked for; None where this torch does not count the former."""
    stats: dict[str, int] = torch.cuda.host_memory_stats() if hasattr(torch.cuda, "host_memory_stats") else {}
    return stats.get("num_host_alloc"), torch.cuda.memory_stats()["num_device_alloc"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", STEPS)
def test_steps_reuse_pinned_memory_and_memory_of_the_gpu(name: str, config: TrialConfig, store: Store) -> None:
    stage, values = STEPS[name]
    config = with_values(config, values)
    training, _ = training_of(stage, config, store, resolve_device("cuda", "bf16"))
    batch = images_per_step(stage, config)

    def round_of_steps() -> tuple[int | None, int]:
        for number in range(8):
            training.step(number * batch)
            torch.cuda.synchronize()  # a block is free again once its copy is done
        return pinned_and_reserved()

    round_of_steps()
    before = round_of_steps()
    assert before[0] != 0, "the steps have pinned something"
    assert round_of_steps() == before
