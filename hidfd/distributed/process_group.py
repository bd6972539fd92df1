"""The processes that run one trial together, and the few ways in which they speak with each other.

Only `torch.distributed` is seen: whoever starts the processes (torchrun, Ray Train) has initialised it, and calls
`hidfd.run_trial` in each of them. A process on its own is `ALONE`, for which nothing here does anything.

Every process holds an equal part of each global batch, and `backward` of its own losses. What it computes is right if

* a loss is a mean over its own images: the mean over the processes is then the global one, and so is the mean of the
  gradients (`average`);
* or, where a loss is not linear in that mean, its inputs were made global in the forward pass (`sum`, `mean`,
  `gather`), whose backward pass is a sum over the processes too.

**Source**: METHOD of this project, "several processes". Not DDP: see docs/decisions.md.
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
"""How long a process waits in a step for one that is silent. One that died is noticed at once: its sockets close."""

STAGE_SECONDS = 86_400.0
"""The same where the others wait for what the first does alone: an import of a million images takes hours."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of its trial.

    Attributes:
        rank: 0 is the first, the only one that writes.
        count: W, how many there are.
        groups: `steps`, for tensors on a CPU, and `waits`, for decisions; both gloo. Tensors on a GPU go through the
            group that the launcher has made.
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
        """Which images of a global batch are this process's: as many as everyone else's, in the order of the ranks."""
        assert batch_images % self.count == 0, f"{batch_images} images on {self.count} processes"
        share = batch_images // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def part(self, batch: Tensor) -> Tensor:
        """This process's rows of something that was drawn for the global batch, `b x ...` to `b/W x ...`."""
        return batch if self.is_alone else batch[self.rows(len(batch))]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same in each, differentiable: its backward pass is a sum as well.

        Every process differentiates its own losses, so the gradient of what all have added up is the sum of theirs.
        """
        if self.is_alone:
            return tensor
        return cast(Tensor, _Sum.apply(tensor, self))

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the processes, differentiable like `sum`."""
        return tensor if self.is_alone else self.sum(tensor) / self.count

    def gather(self, tensor: Tensor) -> Tensor:
        """Everyone's tensor of one shape, `...` to `W x ...`, differentiable.

        A sum of tensors that are zero but in their own row: exact, so it does not depend on the order of the addition.
        """
        rows = [tensor if rank == self.rank else torch.zeros_like(tensor) for rank in range(self.count)]
        return self.sum(torch.stack(rows))

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors of any shapes by their means over the processes, in one all-reduce."""
        if self.is_alone:
            return
        flat = self._add_up(torch.cat([tensor.reshape(-1) for tensor in tensors])).div_(self.count)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])

    def from_first(self, action: Callable[[], T]) -> T:
        """What `action` returns or raises in the first process, in all of them; the others only wait for it.

        Args:
            action: returns something that can be pickled, and asks nothing of the other processes.

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
            told = raised if isinstance(raised, HidfdError) else _lost(f"{type(raised).__name__}: {raised}")
            with contextlib.suppress(ProcessLostError):  # what happened here is the news
                self._broadcast((None, told))
            raise
        self._broadcast((value, None))
        return value

    def _broadcast(self, message: tuple[Any, HidfdError | None] | None) -> tuple[Any, HidfdError | None]:
        box = [message]
        with _losses_named():
            dist.broadcast_object_list(box, src=0, group=self.groups["waits"])
        assert box[0] is not None
        return box[0]

    def _add_up(self, tensor: Tensor) -> Tensor:
        """In place."""
        with _losses_named():
            dist.all_reduce(tensor, group=self.groups["steps"] if tensor.device.type == "cpu" else None)
        return tensor


ALONE = ProcessGroup()
"""A trial in one process."""


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
    """The processes that were started for this trial, for the length of a block that all of them enter.

    A process that leaves the block by an error closes its connections, so that the others do not wait for it.

    Raises:
        ProcessLostError: another one did.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        yield ALONE
        return
    groups = {  # of all processes, so that none is told that it is not a member
        name: cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds)))
        for name, seconds in (("steps", STEP_SECONDS), ("waits", STAGE_SECONDS))
    }
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), groups)
        with _losses_named():
            dist.barrier(group=groups["waits"])  # nobody hangs up while another is still listening
    finally:
        while groups:  # the last reference closes the connections, so none may live on in an error's frames
            dist.destroy_process_group(groups.popitem()[1])


@contextlib.contextmanager
def _losses_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _lost(f"it closed the connection, or was silent for {STEP_SECONDS:g} s") from error


def _lost(reason: str) -> ProcessLostError:
    return ProcessLostError(
        f"another process of this trial is lost ({reason}); what it printed says why. The same command goes on from "
        f"the last checkpoint"
    )
