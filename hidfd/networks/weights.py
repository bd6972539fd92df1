"""Read the user's state dicts, and say clearly why one does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hidfd.errors import InputError

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema")
"""Keys under which training scripts save a state dict."""

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes of names that DataParallel and torch.compile add."""

MAX_LISTED_KEYS = 10
"""Number of keys of each kind that a refusal lists."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from .pt/.pth without running any of its code.

    Wrapping (`{"state_dict": ...}`) and prefixes (`module.`) are taken off.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a .safetensors, .pt or .pth state dict")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if isinstance(error, SafetensorError | OSError) and str(error) else ""
        reason = reason or "damaged, or not made by torch.save"
        raise InputError(
            f"{path}: not a readable state dict ({reason}); save `model.state_dict()` with torch.save or safetensors"
        ) from error
    while isinstance(content, Mapping):
        wrapped = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if wrapped is None:
            break
        content = content[wrapped]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    ):
        raise InputError(f"{path}: holds no state dict (names to tensors); save `model.state_dict()`")
    state = {_without_prefixes(name): tensor for name, tensor in content.items()}
    if len(state) < len(content):
        raise InputError(
            f"{path}: holds some weights twice, with and without a prefix such as `module.`; keep one of them"
        )
    return state


def check_fit(state: Mapping[str, Tensor], module: nn.Module, where: str) -> None:
    """Refuse a state dict that does not fit a network.

    Raises:
        InputError: lists missing, unexpected and mis-shaped keys; one plain sentence if only the number of classes
            differs.
    """
    expected = module.state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = [name for name in expected if name not in state and name not in counters]
    unexpected = [name for name in state if name not in expected]
    misshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if not (missing or unexpected or misshaped):
        return
    classifier = {"fc.weight", "fc.bias"}
    found, wanted = (len(weights.get("fc.bias", ())) for weights in (state, expected))
    only_classifier = all(line.split(" ")[0] in classifier for line in misshaped)
    if not missing and not unexpected and only_classifier and found != wanted:
        raise InputError(
            f"{where}: the checkpoint has {found} classes, trial.data.num_classes says {wanted}; correct num_classes"
        )
    parts = [
        f"{len(keys)} {kind}: {', '.join(keys[:MAX_LISTED_KEYS])}{', ...' if len(keys) > MAX_LISTED_KEYS else ''}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
        if keys
    ]
    raise InputError(f"{where}: the checkpoint does not fit. {'; '.join(parts)}. Check teacher.architecture and width")


def _without_prefixes(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.removeprefix("module.").removeprefix("_orig_mod.")
    return name
