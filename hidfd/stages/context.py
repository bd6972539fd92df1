"""The context of a stage: what it is built with beside its inputs, and how its artifact gets into the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from hidfd.config.schema import TrialConfig
from hidfd.distributed.device import Device
from hidfd.distributed.process_group import ProcessGroup
from hidfd.networks.backbone import Backbone, num_parameters
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.pipeline.watch import watched
from hidfd.stages.memory import explaining_out_of_memory
from hidfd.store.store import Artifact, ArtifactWriter, Store
from hidfd.training.loop import Milestone, Schedule, Training, run_loop

Write = Callable[[ArtifactWriter], dict[str, Any]]
"""Function that writes the files of a stage and returns the meta of its artifact: counts, accuracies and other small
results."""


@dataclass(frozen=True)
class StageContext:
    """A stage to build, and what it is built with.

    Attributes:
        stage: the artifact to build.
        config: the whole trial, with the sha256 of every material.
        store: the store that the artifact goes into.
        device: the device to compute on, and the processes that compute.
        observer: is told of the progress and may ask to stop.
        folder: the results folder, for lists of broken images; None = nowhere.
    """

    stage: Stage
    config: TrialConfig
    store: Store
    device: Device
    observer: Observer
    folder: Path | None = None

    def find(self) -> Artifact | None:
        """Return the stage's artifact if the first process finds it in the store, else None: the same in every process.

        Raises:
            StoreError: the first process finds it, and this one does not.
        """
        artifact = self.store.find(self.stage.name, self.stage.digest)
        if not self.device.processes.from_first(lambda: artifact is not None):
            return None
        return artifact or self.store.get(self.stage.name, self.stage.digest)

    def preparing(self) -> AbstractContextManager[None]:
        """Return a block for what comes before a training's first step, in which one process may be stopped.

        Several processes are stopped together, at a step.
        """
        if not self.device.processes.is_alone:
            return nullcontext()
        return watched(self.observer, self.stage, None, f"{self.stage.role}: before its first step")

    def clear_checkpoints(self) -> None:
        """Delete the checkpoints that are not needed once the artifact is in the store; for the first process alone."""
        self.store.checkpoints(self.stage.checkpoints).clear(self.stage.target_images)

    def by_first(self, make: Callable[[], object]) -> Artifact:
        """Have the first process make the stage's artifact; return it as every process finds it in the store."""

        def build() -> None:
            make()  # without its result, which would be sent to the other processes

        self.device.processes.from_first(build)
        return self.store.get(self.stage.name, self.stage.digest)

    def keep(
        self,
        write: Write,
        *,
        seconds: float | None = None,
        rows: Iterable[Mapping[str, Any]] | None = None,
        consumed: Sequence[Artifact] | None = None,
        is_computed: bool = True,
    ) -> Artifact:
        """Write the stage's artifact into the store: the end of every stage.

        Args:
            write: called with the open writer.
            seconds: time that building took, for the meta; None where the meta of `write` is complete.
            rows: rows of `metrics.jsonl`; None for an artifact without this file.
            consumed: artifacts that were read; None for those that the stage's inputs name.
            is_computed: whether the result was computed on the device, which the manifest then names.

        Returns:
            The artifact in the store, which is another writer's where that one was first.

        Raises:
            StoreError: it cannot be written.
        """
        stage = self.stage
        with self.store.writer(stage.name, stage.digest, stage.identity) as writer:
            meta = write(writer)
            if rows is not None:
                writer.metrics(rows)
            if seconds is not None:
                meta = meta | {"seconds": seconds}
            device = self.device.description if is_computed else None
            return writer.commit(meta, device=device, consumed=consumed)


def train_and_keep(
    context: StageContext,
    training: Training,
    write: Write,
    *,
    target_images: int,
    step_images: int,
    milestones: Iterable[Milestone] = (),
    on_resume: Callable[[list[dict[str, float]]], None] = lambda rows: None,
    prepared_seconds: float = 0.0,
) -> Artifact:
    """Train to the target from the newest checkpoint, write the artifact, and delete the checkpoints.

    All processes train; the first one writes.

    Args:
        write: called in the first process when the training has ended; the time and operations are added to its meta.
        target_images: images after which the training ends.
        step_images: images that one step sees.
        milestones, on_resume: as in `hidfd.training.loop.run_loop`.
        prepared_seconds: time that belongs to the stage and came before the training.

    Raises:
        Stopped, DivergedError: as `run_loop`.
        OutOfMemoryError: names what the training holds, and the settings to lower.
        StoreError: the artifact cannot be written.
    """
    stage, config = context.stage, context.config
    schedule = Schedule(
        target_images,
        step_images,
        config.log_every_images,
        config.checkpoint_every_seconds,
        is_continued=stage.trajectory is not None,
    )

    def keep() -> None:
        context.keep(
            lambda writer: write(writer) | {"operations": stage.operations},
            seconds=history.seconds + prepared_seconds,
            rows=history.rows,
        )
        context.clear_checkpoints()

    with explaining_out_of_memory(stage, config, context.device, training):
        history = run_loop(
            training,
            stage,
            schedule,
            context.store.checkpoints(stage.checkpoints),
            context.observer,
            milestones,
            on_resume,
            processes=context.device.processes,
        )
        return context.by_first(keep)


def write_weights(writer: ArtifactWriter, name: str, network: nn.Module) -> None:
    """Write the state of a network as a safetensors file of this name."""
    state = {key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}
    safetensors.torch.save_file(state, writer.path(name))


def write_network(
    writer: ArtifactWriter, backbone: Backbone, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Write a teacher's or a judge's weights; return their meta."""
    write_weights(writer, "weights.safetensors", backbone)
    return {"mean": list(mean), "std": list(std), "num_parameters": num_parameters(backbone)}


def observer_of_process(observer: Observer, processes: ProcessGroup) -> Observer:
    """Return the given observer in the first process, and in the others a silent one that measures at the same images.

    All processes must stop training for a measurement at the same step.
    """
    at_images = processes.from_first(lambda: observer.measure_at_images)
    if not processes.is_first:
        observer = Observer()
        observer.measure_at_images = at_images
    return observer
