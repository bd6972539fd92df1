"""Trainings and trials on two real processes, over gloo: the functions that each process runs, and their start."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import torch
from torch import Tensor, nn

import hidfd.training.loop
from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.distributed.process_group import ProcessGroup, joined
from hidfd.errors import HidfdError, StoreError
from hidfd.pipeline.graph import Stage, plan
from hidfd.pipeline.observer import Observer
from hidfd.stages.distillation import distil
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.stages.generation import train_generator
from hidfd.stages.teacher import train_teacher
from hidfd.store.store import Artifact, Store
from hidfd.training.gradients import apply_gradients
from hidfd.trial import run_trial
from tests.hidfd.stages.golden.runs import CONFIG, World, double_precision

COUNT = 2
LIMIT_SECONDS = 400.0
"""Seconds after which processes are taken for hanging, on a machine that does other work too."""

EVERY_STEP = {"log_every_images": 8}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "position, inverse": ("generation", {}),
    "class mean, effective, soft": (
        "generation",
        {
            "generation.integration.pairing": "class_mean",
            "generation.smoothing.mode": "effective",
            "generation.smoothing.counting": "soft",
            "generation.smoothing.temperature": 2.0,
            "generation.smoothing.beta": 0.9999,
            "generation.discriminator_steps": 2,
            "generation.target_images": 320,
        },
    ),
    "residual networks, uniform": (
        "generation",
        {"generation.networks": "residual", "generation.smoothing.mode": "uniform", "generation.adam_beta1": 0.5},
    ),
    "no integration, no smoothing": (
        "generation",
        {
            "generation.smoothing.mode": "off",
            "generation.integration.trans_weight": 0.0,
            "generation.integration.blend_weight": 0.0,
        },
    ),
    "every third step, consistency, LeCam": (
        "generation",
        {
            "generation.teacher_terms_every": 3,
            "generation.consistency_weight": 1.0,
            "generation.lecam_weight": 0.1,
        },
    ),
    # At the default rate these 20 steps enlarge round-off a million times, with one process as with two.
    "shared head": ("distillation", {"distillation.learning_rate": 0.01}),
    "own head": ("distillation", {"distillation.head": "own", "distillation.feature_weight": 0.0}),
    "mixed views": ("distillation", {"distillation.learning_rate": 0.01, "distillation.mix": "cutmix"}),
    "bank of views": (
        "distillation",
        {"distillation.learning_rate": 0.01, "distillation.mix": "cutmix", "distillation.view_bank": 40},
    ),
    "teacher": ("teacher", {}),
}
"""Twenty steps each: stage, and what differs from the golden runs' configuration."""


@dataclass
class Run:
    """The result of a training: a row of global means per step, and every tensor of its artifact."""

    curve: list[dict[str, float]]
    weights: dict[str, Tensor]


def world_of(folder: Path, processes: ProcessGroup) -> World:
    """Return the golden runs' inputs in a store of this folder; to be made and used inside `double_precision`."""
    world = World(folder)
    world.device = replace(world.device, processes=processes)
    return world


def train(name: str, world: World) -> Run:
    """Train one of `VARIANTS`."""
    stage_name, values = VARIANTS[name]
    config = with_values(CONFIG, {**EVERY_STEP, **values})
    stages = plan(config)
    context = world.context(stages[stage_name], config)
    match stage_name:
        case "generation":
            made = train_generator(context, world.collection, world.teacher)
        case "distillation":
            made = distil(context, world.collection, world.images[150:200], world.teacher)
        case _:
            images = world.image_set(stages["teacher_images"], world.images[:60], world.labels[:60])
            made = train_teacher(context, images, None)
    return Run(made.metrics(), weights_of(made))


def weights_of(artifact: Artifact) -> dict[str, Tensor]:
    file = next(name for name in artifact.files if name.endswith(".safetensors"))
    return safetensors.torch.load_file(artifact.path(file))


def train_all(folder: str) -> dict[str, Any]:
    """Train every variant; take steps in which the second process has a gradient or a loss that is not finite."""
    with joined() as processes, double_precision():
        world = world_of(Path(folder) / "store", processes)
        found: dict[str, Any] = {name: train(name, world) for name in VARIANTS}
        found["skipped"] = [skipped(processes, bad) for bad in ("nothing", "gradient", "loss")]
    return found


def skipped(processes: ProcessGroup, bad: str) -> tuple[float, bool]:
    """Return the finite flag and whether the step was taken; `bad` of the second process alone is not finite."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    is_bad = processes.rank == 1
    weight.grad = torch.tensor([1.0, float("inf") if is_bad and bad == "gradient" else 1.0])
    loss = torch.tensor(float("nan") if is_bad and bad == "loss" else 1.0)
    flag = apply_gradients(optimizer, [loss], processes)
    return flag.item(), not torch.equal(weight.detach(), torch.ones(2))


class Listener(Observer):
    """An observer that counts its calls and asks to stop once a stage has reported its progress some times."""

    def __init__(self, stage: str = "", intervals: int = 0) -> None:
        self.stage, self.left, self.heard = stage, intervals, 0

    def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
        self.heard += 1
        if stage.name == self.stage:
            self.left -= 1
            self.stop_reason = "the test asked" if self.left <= 0 else None


def trials(rank: int, config: TrialConfig, folder: str) -> dict[str, Any]:
    """Run a whole trial; the same, stopped in two stages by the first process and resumed; a refused one."""
    hidfd.training.stopping.POLL_SECONDS = 0.0  # each step asks
    root, found = Path(folder), dict[str, Any]()

    def run(store: str, observer: Observer | None = None, **values: Any) -> Any:
        results = root / "results" / f"{store}-{rank}"
        chosen = with_values(config, values)
        return outcome(
            lambda: (
                run_trial(
                    chosen, Store.open(root / store), device="cpu", folder=results, observer=observer or Observer()
                ).metrics
            )
        )

    with double_precision():
        listener = Listener()
        found["whole"] = run("whole", listener)
        found["heard"] = listener.heard
        found["generation"] = run("stopped", Listener("generation", 2) if rank == 0 else None)
        found["checkpoints"] = checkpoints_in(root / "stopped")
        found["distillation"] = run("stopped", Listener("distillation", 2) if rank == 0 else None)
        found["resumed"] = run("stopped")
        odd = {"generation.batch_images": 9, "distillation.batch_images": 15}
        found["refused"] = run("whole", **odd)
    return found


def losses(rank: int, config: TrialConfig, folder: str) -> dict[str, Any]:
    """Run trials of which one process fails: by the store, the memory, the program, and by a kill."""
    root, found = Path(folder), dict[str, Any]()

    def run(name: str) -> None:
        started = time.monotonic()
        found[name] = outcome(lambda: run_trial(config, Store.open(root / name), device="cpu").metrics)
        found[f"{name} seconds"] = time.monotonic() - started

    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    with mock.patch("hidfd.store.store.Store.writer", full if rank == 0 else Store.writer):
        run("store")
    with breaking(rank, lambda: torch.empty(2**50, dtype=torch.uint8)):
        run("memory")
    with breaking(rank, lambda: 1 / 0):
        run("program")
    (root / f"{rank}.until-kill").write_bytes(pickle.dumps(found))
    with breaking(rank, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        run("killed")
    return found


@contextlib.contextmanager
def breaking(rank: int, action: Callable[[], object]) -> Iterator[None]:
    """Have the second process do something else in its third step of the GAN, for the length of a block."""
    step = AdversarialTraining.step

    def broken(training: AdversarialTraining, images_seen: int) -> dict[str, Tensor]:
        if rank == 1 and images_seen >= 16:
            action()
        return step(training, images_seen)

    with mock.patch.object(AdversarialTraining, "step", broken):
        yield


def outcome(action: Callable[[], Any]) -> Any:
    """Return the action's result, or the error that it ends with."""
    try:
        return action()
    except (HidfdError, ArithmeticError) as error:
        return error


def checkpoints_in(store: Path) -> list[str]:
    return sorted(path.parent.name for path in (store / "checkpoints").glob("*/*/manifest.json"))


def on_two_processes(target: Callable[..., Any], *arguments: Any, folder: Path) -> list[Any]:
    """Return the result of `target(*arguments)` in each process; None of one that was killed.

    A target whose first parameter is `rank` gets it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=_child, args=(rank, f"{folder}", target, arguments), daemon=True)
        for rank in range(COUNT)
    ]
    for process in started:
        process.start()
    deadline = time.monotonic() + LIMIT_SECONDS
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
    hanging = [rank for rank, process in enumerate(started) if process.is_alive()]
    for process in started:
        process.kill()
        process.join()
    assert not hanging, f"processes {hanging} did not end"
    answers = [folder / f"{rank}.answer" for rank in range(COUNT)]
    return [pickle.loads(answer.read_bytes()) if answer.exists() else None for answer in answers]  # noqa: S301  # our own


def _child(rank: int, folder: str, target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=COUNT)
    takes_rank = target.__code__.co_varnames[:1] == ("rank",)
    answer = target(rank, *arguments) if takes_rank else target(*arguments)
    (Path(folder) / f"{rank}.answer").write_bytes(pickle.dumps(answer))
