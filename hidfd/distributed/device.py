"""The device, the precision and the processes of a trial: the only module that tells a GPU from a CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from hidfd.distributed.batch_norm import SynchronisedBatchNorm2d
from hidfd.distributed.process_group import ALONE, ProcessGroup
from hidfd.errors import ConfigError, DeviceError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Device:
    """A device, the precision of the training steps on it, and the processes that take these steps together."""

    torch_device: torch.device
    precision: str
    processes: ProcessGroup = ALONE

    @property
    def is_cuda(self) -> bool:
        return self.torch_device.type == "cuda"

    @property
    def description(self) -> str:
        """The device in words, for manifests and reports."""
        several = "" if self.processes.is_alone else f", {self.processes.count} processes"
        if self.is_cuda:
            return f"{torch.cuda.get_device_name(self.torch_device)}, {self.precision}{several}"
        return f"cpu, {torch.get_num_threads()} threads, {self.precision}{several}"

    def autocast(self) -> AbstractContextManager[object]:
        """Return bf16 autocast if that is the precision, else a context that does nothing.

        Losses leave autocast by casting their inputs with `.float()`.
        """
        if self.precision == "bf16":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def module(self, module: ModuleT) -> ModuleT:
        """Move a module to the device, in channels_last."""
        return module.to(self.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch's stubs lack the keyword

    def frozen(self, module: ModuleT) -> ModuleT:
        """Move a module that never changes, and is called in autocast alone.

        In bf16 its convolutions and linear layers are stored in it, in which autocast would cast them for each call.
        """
        module = self.module(module)
        if self.precision == "bf16":
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.to(torch.bfloat16)
        return module

    def trained(self, module: ModuleT) -> ModuleT:
        """Move a module whose batches are spread over the processes: its batch norms see the global batch.

        Use `module` for one that a single process runs in training mode, as the EMA generator whose statistics are
        re-estimated.
        """
        if not self.processes.is_alone:
            _check_batch_norms(module)
            for parent in list(module.modules()):
                for name, child in parent.named_children():
                    if type(child) is nn.BatchNorm2d:
                        setattr(parent, name, SynchronisedBatchNorm2d.like(child, self.processes))
        return self.module(module)

    def put(self, tensor: Tensor) -> Tensor:
        """Copy a tensor that was drawn on the CPU to the device, without waiting for the copy."""
        return to_device(tensor, self.torch_device)

    def images(self, image: Tensor) -> Tensor:
        """Copy images to the device, in channels_last."""
        # Not pinned: a whole data set would stay pinned, and only the start of a stage waits for this copy.
        return image.to(self.torch_device).contiguous(memory_format=torch.channels_last)


def _check_batch_norms(module: nn.Module) -> None:
    """Check that every batch norm of a network can be made to see the batch of all processes.

    Raises:
        ConfigError: one is of another kind, as timm's are.
    """
    kinds = {type(layer).__name__ for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)}
    if other := kinds - {nn.BatchNorm2d.__name__}:
        raise ConfigError(
            f"{', '.join(sorted(other))}: batch norms of this kind, in a network from elsewhere, would see the images "
            f"of their own process alone; start one process (in a study resources.num_workers: 1)"
        )


def to_device(tensor: Tensor, torch_device: torch.device) -> Tensor:
    """Copy a small tensor on the CPU to a device, without waiting for the copy; on a CPU return the tensor itself.

    On its way to a GPU it is pinned, since torch waits for a copy of pageable memory; torch reuses pinned memory.
    """
    if torch_device.type == "cuda":
        return tensor.pin_memory().to(torch_device, non_blocking=True)
    return tensor


def free_bytes(device: Device) -> int | None:
    """Return the bytes that this process can still have on a device: of the GPU, else of the machine or its container.

    None where the machine does not tell, as outside Linux.
    """
    if device.is_cuda:
        free, _ = torch.cuda.mem_get_info(device.torch_device)
        unused = torch.cuda.memory_reserved(device.torch_device) - torch.cuda.memory_allocated(device.torch_device)
        return free + unused
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return None
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no limit, or none of this kind
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        lines = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        free = min(free, limit - used + int(lines.get("inactive_file", 0)))
    return free


def resolve_device(name: str, precision: str, processes: ProcessGroup = ALONE) -> Device:
    """Choose the device for `--device NAME`; on a GPU, allow TF32 and choose the algorithms of convolutions by timing.

    Args:
        name: `auto` (a GPU if there is one), `cpu` or `cuda`.
        precision: `fp32` or `bf16`, as `trial.precision` says; never changed here.
        processes: those of this trial, each of which has a device of its own.

    Raises:
        DeviceError: there is no GPU, or bf16 was asked for on a CPU, where it is some ten times slower than fp32.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"--device {name}: unknown device; expected auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceError("--device cuda: torch finds no CUDA device here; use --device cpu, or auto")
    kind = "cuda" if available and name != "cpu" else "cpu"
    if kind == "cpu" and precision == "bf16":
        raise DeviceError(
            "trial.precision: bf16 on a CPU is some ten times slower than fp32; "
            "add the override trial.precision=fp32, or use a GPU"
        )
    if kind == "cuda":  # TF32 for what autocast leaves in fp32
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]  # missing in its stubs
        # A training's shapes are fixed, so the fastest algorithm of each is timed once. Runs may be timed differently:
        # two of them agree up to round-off, not to the bit.
        torch.backends.cudnn.benchmark = True
    return Device(torch.device(kind), precision, processes)
