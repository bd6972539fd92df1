"""Errors of too little memory, explained: what could not be had, what was held, and which settings to lower."""

from __future__ import annotations

import contextlib
import re
import resource
import traceback
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from hidfd.config.schema import TrialConfig
from hidfd.distributed.device import Device
from hidfd.errors import OutOfMemoryError
from hidfd.formatting import memory_size
from hidfd.pipeline.graph import Stage
from hidfd.training.loop import Training

NOTED_SHARE = 0.25
"""Share of the memory from which on a holder of it is worth a hint: other processes, or resident images."""

_OF_THE_CPU = "DefaultCPUAllocator: can't allocate memory"
_WORDINGS = (_OF_THE_CPU, "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Wordings of errors of too little memory without a class of their own: of torch on the CPU, of CUDA and of cuBLAS."""

_ASKED = re.compile(r"(?:(?:tried to|Unable to) allocate|of size) ([\d.]+) ?(bytes|[KMGTP]iB| failed)", re.IGNORECASE)
"""The bytes that were asked for, in the messages of torch, NumPy and pyarrow."""

_UNITS = {" failed": 1, "bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}


@contextlib.contextmanager
def explaining_out_of_memory(
    stage: Stage, config: TrialConfig, device: Device, training: Training | None = None, inputs: object | None = None
) -> Iterator[None]:
    """Turn errors of too little memory inside the block into one that explains it, and give the GPU's memory back.

    Blocks may be nested: the inner one explains, and each frees what was held inside of it.

    Args:
        training: what is trained inside the block; None before there is one, and in stages that do not train.
        inputs: holder of the networks that are asked inside the block, where nothing is trained; None = not known.

    Raises:
        OutOfMemoryError: in place of torch's, Python's, NumPy's and pyarrow's errors of this kind.
    """
    try:
        yield
    except OutOfMemoryError as error:
        _free(error, device)
        raise
    except (MemoryError, RuntimeError) as error:
        is_named = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_named and not any(wording in str(error) for wording in _WORDINGS):
            raise
        explanation = _explanation(error, stage, config, device, training, inputs)
        _free(error, device)
        raise OutOfMemoryError(explanation) from error


def holdings(holder: object, kind: str) -> dict[str, int]:
    """Return what a training holds between two steps, or the inputs of a stage, in bytes, each storage counted once.

    Args:
        kind: of the device whose memory counts, `cuda` or `cpu`.

    Returns:
        `networks`: parameters, their gradients and buffers; `optimiser state`; `resident images` and their features or
        maps.
    """
    parts = list(vars(holder).values())
    modules = [part for part in parts if isinstance(part, nn.Module)]
    optimizers = [part for part in parts if isinstance(part, torch.optim.Optimizer)]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    groups: dict[str, Iterable[object]] = {
        "networks": [
            *parameters,
            *(parameter.grad for parameter in parameters),
            *(buffer for module in modules for buffer in module.buffers()),
        ],
        "optimiser state": [
            value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()
        ],
        "resident images": [*parts, *(tensor for part in parts for tensor in getattr(part, "resident", ()))],
    }
    counted: set[int] = set()
    held = dict.fromkeys(groups, 0)
    for name, values in groups.items():
        for value in values:
            if isinstance(value, Tensor) and value.device.type == kind:
                storage = value.untyped_storage()
                if storage.data_ptr() not in counted:
                    counted.add(storage.data_ptr())
                    held[name] += storage.nbytes()
    return held


def _explanation(
    error: Exception,
    stage: Stage,
    config: TrialConfig,
    device: Device,
    training: Training | None,
    inputs: object | None,
) -> str:
    # A trial on a GPU may also run out of the machine's own memory, as when it reads images.
    on_gpu = device.is_cuda and not isinstance(error, MemoryError) and _OF_THE_CPU not in str(error)
    holder = inputs if training is None else training
    held = {} if holder is None else holdings(holder, "cuda" if on_gpu else "cpu")
    own, facts, advice = _facts_of_gpu(device.torch_device) if on_gpu else (sum(held.values()), _facts_of_machine(), "")
    images_are_large = training is None or held["resident images"] >= NOTED_SHARE * own
    if held and on_gpu:
        rest = "activations and the rest" if training is None else "activations and the rest of the step"
        held[rest] = max(0, own - sum(held.values()))
    parts = ", ".join(f"{name} {memory_size(num_bytes)}" for name, num_bytes in held.items() if num_bytes)
    asked = _ASKED.search(str(error))
    more = f"{memory_size(float(asked[1]) * _UNITS[asked[2].lower()])} more" if asked else "what it asked for"
    lowered = _settings(stage, config, is_stepping=training is not None, images_are_large=images_are_large)
    settings = " or ".join(f"{name} (now {value:,})" for name, value in lowered)
    whose = "this stage" if training is None else "the training"
    return (
        f"{stage.role}: out of memory on {'the GPU' if on_gpu else 'this machine'}, {more} could not be had. {facts}"
        f"{f'; {whose}: {parts}' if parts else ''}. {advice}"
        f"{'Or lower' if advice else 'Lower'} {settings}; that makes another trial. "
        f"What was built is kept, and so are the checkpoints"
    )


def _facts_of_gpu(gpu: torch.device) -> tuple[int, str, str]:
    """Return the bytes that this process holds, who holds what in words, and advice if others hold a good part."""
    own, reserved = torch.cuda.memory_allocated(gpu), torch.cuda.memory_reserved(gpu)
    facts = f"This process holds {memory_size(own)} ({memory_size(reserved)} reserved)"
    try:
        free, total = torch.cuda.mem_get_info(gpu)
    except RuntimeError:  # a GPU so full that CUDA itself does not start
        return own, facts, ""
    others = max(0, total - free - reserved)
    facts += f", other processes and CUDA itself {memory_size(others)}, of {memory_size(total)}"
    if others < NOTED_SHARE * total:
        return own, facts, ""
    return own, facts, "Let fewer tasks share the GPU (raise resources.gpus_per_worker), and the trial goes on. "


def _facts_of_machine() -> str:
    return f"This process held up to {memory_size(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}"


def _settings(
    stage: Stage, config: TrialConfig, *, is_stepping: bool, images_are_large: bool
) -> Iterator[tuple[str, int]]:
    """Yield the settings, with their values, whose lowering saves memory in a stage, the best one first.

    Networks are asked in batches of a fixed size, which is no setting.

    Args:
        is_stepping: whether a training has begun: before, its batches take nothing.
    """
    if is_stepping and stage.name in config.batches:
        yield config.batches[stage.name]
    if stage.name == "generation":
        yield "trial.generation.width", config.generation.width
    if stage.name == "distillation" and config.method == "cmi":
        yield "trial.cmi.synthesis_batch_images", config.cmi.synthesis_batch_images
    if stage.name == "distillation" and config.makes_images:
        yield f"trial.{config.method}.width", config.method_settings["width"]
    if is_stepping and not images_are_large:
        return
    if stage.name == "distillation" and config.bank_views:
        yield "trial.distillation.view_bank", config.bank_views
        if is_stepping:
            return
    elif stage.name == "distillation" and config.uses_generator:
        yield "trial.synthesis.num_images", config.synthesis.num_images
    yield "trial.data.image_size_pixels", config.data.image_size_pixels


def _free(error: Exception, device: Device) -> None:
    """Let go of the tensors that an error's frames hold, and give the GPU's unused memory back to other processes."""
    traceback.clear_frames(error.__traceback__)
    if device.is_cuda:
        torch.cuda.empty_cache()
