"""Read the user's state dicts, and say clearly why one does not fit."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hidfd.addresses import is_text
from hidfd.errors import InputError
from hidfd.formatting import part_of, plural
from hidfd.networks.checkpoint_files import (
    Keys,
    access_code,
    conversion,
    converted_name,
    foreign_content,
    is_state_dict,
    refused_content,
    state_dicts,
)

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema")
"""Keys under which training scripts save a state dict."""

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes of names that DataParallel and torch.compile add."""

MAX_LISTED_KEYS = 10
"""Number of keys of each kind that a refusal lists."""

COUNTER = "num_batches_tracked"
"""End of the names of batch counters, which a checkpoint may lack."""

_AVERAGED = re.compile(r"(^|_)(ema|swa|shadow|averaged?)(_|$)")


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, whatever its path."""
    return safetensors.torch.load_file(path) if is_text(path) else safetensors.torch.load(path.read_bytes())


def read_state_dict(path: str | Path, note: Callable[[str], None] = lambda text: None) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from .pt/.pth without running any of its code.

    Wrapping (`{"state_dict": ...}`) and prefixes (`module.`) are taken off.

    Args:
        note: told which weights were taken, where the file may hold several.

    Raises:
        InputError: the file is missing, damaged, or holds something else; the message says how to mend it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a .safetensors, .pt or .pth state dict")
    whole = _content_of(path)
    content, taken = whole, []
    while isinstance(content, Mapping):
        wrapped = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if wrapped is None:
            break
        content = content[wrapped]
        taken.append(wrapped)
    if not is_state_dict(content):
        raise InputError(f"{path}: {_without_state_dict(path, whole, content)}")
    if taken:
        note(_taken_in_words(path, whole, tuple(taken), content))
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


def _without_state_dict(path: Path, whole: Any, content: Any) -> str:
    """Return why nothing that was read is a state dict, and how to make one of it."""
    found = next(state_dicts(whole), None)
    if found is not None:
        lines = conversion(path, access_code(found), load="torch.load({path})")
        return (
            f"holds no state dict under a key that is known ({', '.join(WRAPPERS)}), but under "
            f"{'.'.join(found)}{_if_averaged(found)}; to take that one: {lines}"
        )
    tensors = isinstance(content, Mapping) and [name for name, value in content.items() if isinstance(value, Tensor)]
    if tensors and all(isinstance(name, str) for name in content):
        others = {name: type(value).__name__ for name, value in content.items() if not isinstance(value, Tensor)}
        listed = _listed([f"{name} ({kind})" for name, kind in others.items()])
        lines = (
            f"`state = torch.load({json.dumps(str(path))})` and `torch.save({{name: state[name] for name in state if "
            f"name not in {sorted(others)}}}, {json.dumps(converted_name(path))})`"
        )
        return (
            f"holds {plural(len(others), 'value that is no tensor', 'values that are no tensors')} beside "
            f"{plural(len(tensors), 'tensor')}: {listed}; {lines}"
        )
    return "holds no state dict (names to tensors); save `model.state_dict()`"


def _taken_in_words(path: Path, whole: Any, taken: Keys, content: Mapping[str, Tensor]) -> str:
    """Return which weights were taken, and those beside them that could have been."""
    text = (
        f"teacher: {path.name} holds several things; its weights are taken from {'.'.join(taken)}{_if_averaged(taken)}"
    )
    shapes = Counter(tensor.shape for tensor in content.values())
    for keys in state_dicts(whole):
        beside = whole
        for key in keys:
            beside = beside[key]
        if keys != taken and shapes <= Counter(tensor.shape for tensor in beside.values()):
            lines = conversion(path, access_code(keys), load="torch.load({path})")
            text += f", not from {'.'.join(keys)}{_if_averaged(keys)}; to take those instead: {lines}"
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


def check_fit(state: Mapping[str, Tensor], module: nn.Module, where: str, path: str | Path = "CHECKPOINT") -> None:
    """Refuse a state dict that does not fit a network.

    Args:
        where: the setting, for messages.
        path: the file of the state dict, for messages.

    Raises:
        InputError: lists missing, unexpected and mis-shaped keys; one plain sentence if only the number of classes
            differs; two lines of Python that rename if only names differ.
    """
    expected = module.state_dict()
    counters = {name for name in expected if name.endswith(COUNTER)}
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
        f"{len(keys)} {kind}: {_listed(keys)}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
        if keys
    ]
    lists = "; ".join(parts)
    renaming = None if misshaped else _renaming(state, expected)
    if renaming is None:
        raise InputError(f"{where}: the checkpoint does not fit. {lists}. Check teacher.architecture and width")
    reason, new = renaming
    lines = (
        f"`state = hidfd.networks.weights.read_state_dict({json.dumps(str(path))})` and "
        f"`torch.save({new}, {json.dumps(converted_name(Path(path)))})`"
    )
    raise InputError(f"{where}: {reason}; make a state dict that fits with {lines}. {lists}")


def _renaming(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return how names differ where all weights are there, and the code that makes those of the network of `state`."""
    needed = {name for name in expected if not name.endswith(COUNTER)}
    ends = {name.removesuffix(shortest) for shortest in [min(needed)] for name in state if name.endswith(shortest)}
    prefixes = sorted(prefix for prefix in ends if all(_agree(state, expected, prefix + name, name) for name in needed))
    if prefixes:
        prefix = prefixes[0]
        extra = [name for name in state if name.removeprefix(prefix) not in expected or not name.startswith(prefix)]
        besides = f"; not of this network: {_listed(extra)}" if extra else ""
        others = f" (or with {' or '.join(map(repr, prefixes[1:]))})" if prefixes[1:] else ""
        begins = f"every weight is there, under its name with {prefix!r} before it{others}"
        reason = f"{begins if prefix else 'every weight is there under its name'}{besides}"
        choice = f" if n.startswith({json.dumps(prefix)})" if prefix else f" if n not in {extra}"
        return reason, f"{{{_call('n', 'removeprefix', prefix)}: t for n, t in state.items(){choice}}}"
    theirs = [name for name in state if not name.endswith(COUNTER)]
    ours = [name for name in expected if not name.endswith(COUNTER)]
    if [state[name].shape for name in theirs] != [expected[name].shape for name in ours]:
        return None
    example = next(f"{old} is {new} here" for old, new in zip(theirs, ours, strict=True) if old != new)
    reason = f"all {len(ours)} weights have the right shapes in the right order, but other names: {example}"
    rules = _replacements(theirs, ours)
    if rules is None:
        return reason, "{NEW_NAMES[n]: t for n, t in state.items()}"
    words = ", ".join(f"{old!r} by {new!r}" for old, new in rules)
    code = "n" + "".join(_call("", "replace", old, new) for old, new in rules)
    return f"{reason} (replace {words})", f"{{{code}: t for n, t in state.items()}}"


def _agree(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], theirs: str, ours: str) -> bool:
    return theirs in state and state[theirs].shape == expected[ours].shape


def _call(subject: str, method: str, *arguments: str) -> str:
    """Return the code of a call; the subject alone where the first argument is empty."""
    return f"{subject}.{method}({', '.join(map(json.dumps, arguments))})" if arguments[0] else subject


def _replacements(theirs: Sequence[str], ours: Sequence[str]) -> list[tuple[str, str]] | None:
    """Return texts to replace, in this order, that turn every name into its counterpart; None if none are found."""
    rules: dict[str, str] = {}
    for old, new in zip(theirs, ours, strict=True):
        a, b = old.split("."), new.split(".")
        for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            if kind == "insert":
                return None
            if kind != "equal":
                rules.setdefault(".".join([*a[i:j], ""]), ".".join([*b[k:m], ""]) if m > k else "")
    found = sorted(rules.items(), key=lambda rule: -len(rule[0]))
    renamed = list(theirs)
    for old, new in found:
        renamed = [name.replace(old, new) for name in renamed]
    return found if renamed == list(ours) else None


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:MAX_LISTED_KEYS])}{', ...' if len(names) > MAX_LISTED_KEYS else ''}"


def _without_prefixes(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.removeprefix("module.").removeprefix("_orig_mod.")
    return name
