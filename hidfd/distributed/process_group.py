"""The processes that run one trial together, and the few ways in which they exchange tensors and decisions.

Only `torch.distributed` is used: whoever starts the processes (torchrun, Ray Train) has initialised it, and calls
`hidfd.run_trial` in each of them. A trial in one process has `ALONE`, which exchanges nothing.

Every process holds an equal part of each global batch and runs the backward pass of its own losses. The gradients are
those of the global batch if each loss

* is a mean over the process's own images: the mean over the processes is then the global one, and so is the mean of the
  gradients (`average`);
* or, if it is not linear in that mean, has inputs that were made global in the forward pass (`sum`, `mean`, `gather`),
  whose backward pass is a sum over the processes too.

**Source**: this project, see "Several processes" in docs/method.md. Not DDP: see docs/decisions.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from hidfd.errors import HidfdError, ProcessLostError

T = TypeVar("T")

STEP_SECONDS = 600.0
"""Seconds that a process waits in a step for a silent one. One that died is noticed at once: its sockets close."""

STAGE_SECONDS = 86_400.0
"""Seconds that processes wait for what the first one does alone: importing a million images takes hours."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a trial, and which of them this one is.

    Attributes:
        rank: of this process; 0 is the first, the only one that writes.
        count: W, the number of processes.
        groups: torch's groups, both gloo: `steps` for tensors on a CPU, and `waits` for decisions. Tensors on a GPU go
            through the group that the launcher has made.
    """

    rank: int = 0
    count: int = 1
    groups: dict[str, dist.ProcessGroup] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.count == 1

    def rows(self, batch_images: int) -> slice:
        """Return the rows of a global batch that this process holds: equal parts, in the order of the ranks."""
        assert batch_images % self.count == 0, f"{batch_images} images on {self.count} processes"
        share = batch_images // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def part(self, batch: Tensor) -> Tensor:
        """Return this process's rows of a tensor that was drawn for the global batch, `b x ...` to `b/W x ...`."""
        return batch if self.is_alone else batch[self.rows(len(batch))]

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes, the same in each; differentiable: its backward pass is a sum as well.

        Every process differentiates its own losses, so the gradient of a shared sum is the sum of all their gradients.
        """
        if self.is_alone:
            return tensor
        return cast(Tensor, _Sum.apply(tensor, self))

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over the processes, differentiable like `sum`."""
        return tensor if self.is_alone else self.sum(tensor) / self.count

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes, of one shape, `...` to `W x ...`; differentiable.

        Computed as a sum of tensors that are zero outside their own row. That is exact, whatever the order of addition.
        """
        rows = [tensor if rank == self.rank else torch.zeros_like(tensor) for rank in range(self.count)]
        return self.sum(torch.stack(rows))

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of any shapes by their means over the processes, in one all-reduce."""
        if self.is_alone:
            return
        flat = self._add_up(torch.cat([tensor.reshape(-1) for tensor in tensors])).div_(self.count)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])

    def from_first(self, action: Callable[[], T]) -> T:
        """Run an action in the first process alone; return its result, or raise its error, in all of them.

        Args:
            action: returns something that can be pickled, and exchanges nothing with the other processes.

        Raises:
            HidfdError: as `action` raised it.
            ProcessLostError: in the others, if it raised anything else, or if the first process is gone.
        """
        if self.is_alone:
            return action()
        if not self.is_first:
            value, error = self._broadcast(None)
            if error is not None:
                raise error
            return cast(T, value)
        try:
            value = action()
        except BaseException as raised:
            error = raised if isinstance(raised, HidfdError) else _process_lost(f"{type(raised).__name__}: {raised}")
            with contextlib.suppress(ProcessLostError):  # the action's own error is the one to raise
                self._broadcast((None, error))
            raise
        self._broadcast((value, None))
        return value

    def _broadcast(self, message: tuple[Any, HidfdError | None] | None) -> tuple[Any, HidfdError | None]:
        box = [message]
        with _raising_process_lost():
            dist.broadcast_object_list(box, src=0, group=self.groups["waits"])
        assert box[0] is not None
        return box[0]

    def _add_up(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place."""
        with _raising_process_lost():
            dist.all_reduce(tensor, group=self.groups["steps"] if tensor.device.type == "cpu" else None)
        return tensor


ALONE = ProcessGroup()
"""The group of a trial that runs in one process."""


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor, processes: ProcessGroup) -> Tensor:
        context.processes = processes
        return processes._add_up(tensor.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.processes._add_up(gradients[0].clone(memory_format=torch.contiguous_format)), None


@contextlib.contextmanager
def joined() -> Iterator[ProcessGroup]:
    """Join the processes that were started for this trial, for the length of a block that all of them enter.

    A process that leaves the block by an error closes its connections, so that the others do not wait for it.

    Raises:
        ProcessLostError: another process left it by an error.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        yield ALONE
        return
    groups = {  # over all processes, so that each of them is a member
        name: cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds)))
        for name, seconds in (("steps", STEP_SECONDS), ("waits", STAGE_SECONDS))
    }
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), groups)
        with _raising_process_lost():
            dist.barrier(group=groups["waits"])  # no process hangs up while another still waits for it
    finally:
        while groups:  # the last reference closes the connections: none may remain in the frames of an error
            dist.destroy_process_group(groups.popitem()[1])


@contextlib.contextmanager
def _raising_process_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _process_lost(f"it closed the connection, or was silent for {STEP_SECONDS:g} s") from error


def _process_lost(reason: str) -> ProcessLostError:
    return ProcessLostError(
        f"another process of this trial is lost ({reason}); what it printed says why. The same command goes on from "
        f"the last checkpoint"
    )
