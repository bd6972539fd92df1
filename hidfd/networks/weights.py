"""Read the user's state dicts, whatever is around them, and say clearly why one cannot be read."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from hidfd.addresses import is_text
from hidfd.errors import InputError
from hidfd.formatting import part_of, plural
from hidfd.networks.checkpoint_files import (
    Keys,
    converted_name,
    foreign_content,
    is_state_dict,
    refused_content,
    state_dicts,
)
from hidfd.networks.weight_names import listed_names

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema")
"""Keys under which training scripts save a state dict."""

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes of names that DataParallel and torch.compile add."""

SETTING = "trial.teacher.weights="
"""What is written before the key of the weights to take, unless another is given."""

_AVERAGED = re.compile(r"(^|_)(ema|swa|shadow|averaged?)(_|$)")


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, whatever its path."""
    return safetensors.torch.load_file(path) if is_text(path) else safetensors.torch.load(path.read_bytes())


def read_state_dict(
    path: str | Path,
    note: Callable[[str], None] = lambda text: None,
    *,
    wanted: str | None = None,
    setting: str = SETTING,
) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from .pt/.pth without running any of its code.

    Wrapping (`{"state_dict": ...}`) and prefixes (`module.`) are taken off.

    Args:
        note: told which weights were taken, where the file may hold several.
        wanted: key of the weights to take, or what their names begin with; None = those under a key that is known.
        setting: what is written before a value of `wanted`, for messages.

    Raises:
        InputError: the file is missing, damaged, or holds something else; the message says how to mend it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a .safetensors, .pt or .pth state dict")
    whole = _content_of(path)
    if wanted is not None:
        return _part_of(whole, wanted, path, setting)
    taken = _wrapped(whole)
    content = _at(whole, taken)
    if not is_state_dict(content):
        raise InputError(f"{path}: {_without_state_dict(path, whole, content, setting)}")
    if taken:
        note(_taken_in_words(path, whole, taken, content, setting))
    return _bare(content, path)


def _wrapped(content: Any) -> Keys:
    """Return the known keys that lead as far in as they are there."""
    if not isinstance(content, Mapping):
        return ()
    name = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
    return () if name is None else (name, *_wrapped(content[name]))


def _at(content: Any, keys: Keys) -> Any:
    for key in keys:
        content = content[key]
    return content


def _part_of(whole: Any, wanted: str, path: Path, setting: str) -> dict[str, Tensor]:
    """Return the state dict under a key, dotted where it is nested, or the tensors whose names begin with it.

    Known keys around it need not be named.

    Raises:
        InputError: there is none; the message says what there is.
    """
    wrappers = _wrapped(whole)
    for depth in reversed(range(len(wrappers) + 1)):  # from the innermost
        part = _named(_at(whole, wrappers[:depth]), wanted, path)
        if part:
            return part
    found = list(state_dicts(whole))
    if len(found) == 1:
        there = {name.split(".")[0] for name in _at(whole, found[0])}
    else:
        there = {".".join(keys) for keys in found}
    raise InputError(
        f"{path}: {setting}{wanted}: no weights are under this key, nor do names begin so; there are "
        f"{listed_names(sorted(there)) if there else 'no weights at all'}"
    )


def _named(content: Any, wanted: str, path: Path) -> dict[str, Tensor]:
    """Return the tensors below a dotted key, or whose names begin with it, without it; empty if there are none."""
    while isinstance(content, Mapping) and wanted:
        keys = [key for key in content if isinstance(key, str) and f"{wanted}.".startswith(f"{key}.")]
        key = next((key for key in keys if isinstance(content[key], Mapping)), None)
        if key is None:
            break
        content, wanted = content[key], wanted[len(key) + 1 :]
    if not is_state_dict(content):
        return {}
    state = _bare(content, path)
    prefix = next((p for p in (f"{wanted}.", wanted) if any(name.startswith(p) for name in state)), None)
    if not wanted:
        return state
    return {} if prefix is None else {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _bare(content: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return a state dict without the prefixes of parallel and compiled networks."""
    state = {_without_prefixes(name): tensor for name, tensor in content.items()}
    if len(state) < len(content):
        raise InputError(
            f"{path}: holds some weights twice, with and without a prefix such as `module.`; keep one of them"
        )
    return state


def _content_of(path: Path) -> Any:
    try:
        foreign = foreign_content(path)
        if foreign is not None:
            raise InputError(f"{path}: not a readable state dict: {foreign}")
        if path.suffix == ".safetensors":
            return load_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, InputError):
        raise
    except Exception as error:
        refused = refused_content(path, error)
        if refused is not None:
            raise InputError(f"{path}: not a readable state dict: {refused}") from error
        reason = str(error).splitlines()[0] if isinstance(error, SafetensorError | OSError) and str(error) else ""
        reason = reason or "damaged, or not made by torch.save"
        raise InputError(
            f"{path}: not a readable state dict ({reason}); save `model.state_dict()` with torch.save or safetensors"
        ) from error


def _without_state_dict(path: Path, whole: Any, content: Any, setting: str) -> str:
    """Return why nothing that was read is a state dict, and what to do."""
    found = next(state_dicts(whole), None)
    if found is not None:
        key = ".".join(found)
        return (
            f"holds no state dict under a key that is known ({', '.join(WRAPPERS)}), but under "
            f"{key}{_if_averaged(found)}; to take that one, set {setting}{key}"
        )
    tensors = isinstance(content, Mapping) and [name for name, value in content.items() if isinstance(value, Tensor)]
    if tensors and all(isinstance(name, str) for name in content):
        others = {name: type(value).__name__ for name, value in content.items() if not isinstance(value, Tensor)}
        listed = listed_names([f"{name} ({kind})" for name, kind in others.items()])
        lines = (
            f"`state = torch.load({json.dumps(str(path))})` and `torch.save({{name: state[name] for name in state if "
            f"name not in {sorted(others)}}}, {json.dumps(converted_name(path))})`"
        )
        return (
            f"holds {plural(len(others), 'value that is no tensor', 'values that are no tensors')} beside "
            f"{plural(len(tensors), 'tensor')}: {listed}; {lines}"
        )
    return "holds no state dict (names to tensors); save `model.state_dict()`"


def _taken_in_words(path: Path, whole: Any, taken: Keys, content: Mapping[str, Tensor], setting: str) -> str:
    """Return which weights were taken, and those beside them that could have been."""
    name = f"{'.'.join(taken)}{_if_averaged(taken)}"
    text = f"{role_of(setting)}{path.name} holds several things; its weights are taken from {name}"
    shapes = Counter(tensor.shape for tensor in content.values())
    for keys in state_dicts(whole):
        beside = _at(whole, keys)
        if keys != taken and shapes <= Counter(tensor.shape for tensor in beside.values()):
            name = ".".join(keys)
            text += f", not from {name}{_if_averaged(keys)}; to take those instead, set {setting}{name}"
    return text


def _if_averaged(keys: Keys) -> str:
    return " (averaged weights)" if any(_AVERAGED.search(key) for key in keys) else ""


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are infinite or not a number, with which a network answers nothing.

    Raises:
        InputError: names the first such tensor, and counts the values.
    """
    spoilt = {name: int((~tensor.isfinite()).sum()) for name, tensor in state.items() if not tensor.isfinite().all()}
    if spoilt:
        name, count = next(iter(spoilt.items()))
        kind = "not a number" if state[name].isnan().any() else "infinite"
        raise InputError(
            f"{where}: {plural(sum(spoilt.values()), 'weight is', 'weights are')} not finite, in "
            f"{part_of(len(spoilt), len(state), 'tensor')}; the "
            f"first is {name} ({count:,} of {state[name].numel():,}, {kind}). Its training diverged, or the file was "
            f"damaged; take an earlier checkpoint"
        )
    negative = [n for n, tensor in state.items() if n.endswith("running_var") and bool((tensor < 0).any())]
    if negative:
        raise InputError(
            f"{where}: {negative[0]} has variances below 0, with which a network answers nothing; take an earlier "
            f"checkpoint"
        )


def role_of(setting: str) -> str:
    """Return the beginning of a note: `teacher: ` of `trial.teacher.weights=`, nothing of an option."""
    parts = setting.split(".")
    return f"{parts[1]}: " if len(parts) > 1 else ""


def _without_prefixes(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.removeprefix("module.").removeprefix("_orig_mod.")
    return name
