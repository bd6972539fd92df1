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
    converted_name,
    foreign_content,
    is_state_dict,
    refused_content,
    state_dicts,
)
from hidfd.networks.weight_names import COUNTER, Match, matches

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema")
"""Keys under which training scripts save a state dict."""

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes of names that DataParallel and torch.compile add."""

SETTING = "trial.teacher.weights="
"""What is written before the key of the weights to take, unless another is given."""

MAX_LISTED_KEYS = 10
"""Number of keys of each kind that a refusal lists."""

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
        part = _named(_at(whole, wrappers[:depth]), wanted)
        if part:
            return _bare(part, path)
    found = list(state_dicts(whole))
    if len(found) == 1:
        there = {name.split(".")[0] for name in _at(whole, found[0])}
    else:
        there = {".".join(keys) for keys in found}
    raise InputError(
        f"{path}: {setting}{wanted}: no weights are under this key, nor do names begin so; there are "
        f"{_listed(sorted(there)) if there else 'no weights at all'}"
    )


def _named(content: Any, wanted: str) -> dict[str, Tensor]:
    """Return the tensors below a dotted key, or whose names begin with it, without it; empty if there are none."""
    while isinstance(content, Mapping) and wanted:
        keys = [key for key in content if isinstance(key, str) and f"{wanted}.".startswith(f"{key}.")]
        key = next((key for key in keys if isinstance(content[key], Mapping)), None)
        if key is None:
            break
        content, wanted = content[key], wanted[len(key) + 1 :]
    if not is_state_dict(content):
        return {}
    content = {_without_prefixes(name): tensor for name, tensor in content.items()}
    prefix = next((p for p in (f"{wanted}.", wanted) if any(name.startswith(p) for name in content)), None)
    if not wanted:
        return dict(content)
    return {} if prefix is None else {n.removeprefix(prefix): t for n, t in content.items() if n.startswith(prefix)}


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


def _taken_in_words(path: Path, whole: Any, taken: Keys, content: Mapping[str, Tensor], setting: str) -> str:
    """Return which weights were taken, and those beside them that could have been."""
    name = f"{'.'.join(taken)}{_if_averaged(taken)}"
    text = f"{_role(setting)}{path.name} holds several things; its weights are taken from {name}"
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


def fitted(
    state: dict[str, Tensor],
    module: nn.Module,
    where: str,
    path: str | Path = "CHECKPOINT",
    note: Callable[[str], None] = lambda text: None,
    *,
    wanted: str | None = None,
    setting: str = SETTING,
) -> dict[str, Tensor]:
    """Return a state dict under the names of a network, whose weights it may have under a prefix or known aliases.

    Args:
        where: the setting of the checkpoint, for messages.
        path: the file of the state dict, for messages.
        note: told what was renamed or left out.
        wanted, setting: as of `read_state_dict`, which has read it.

    Raises:
        InputError: it does not fit (`check_fit`), or holds the weights of several such networks.
    """
    found = matches(state, module.state_dict())
    if len(found) > 1:
        raise InputError(f"{where}: {_several_in_words(found, Path(path), wanted, setting)}")
    if found:
        [match] = found
        if match.prefix or match.left_out or any(ours != theirs for ours, theirs in match.names.items()):
            note(f"{_role(setting)}{Path(path).name}: names are matched with the network's: {match.in_words()}")
        state = {ours: state[theirs] for ours, theirs in match.names.items()}
    check_fit(state, module, where, path, wanted)
    return state


def _several_in_words(found: Sequence[Match], path: Path, wanted: str | None, setting: str) -> str:
    prefixes = [match.prefix for match in found if match.prefix]
    before = f"{wanted}." if wanted else ""
    choices = " or ".join(f"{setting}{before}{prefix.removesuffix('.')}" for prefix in prefixes)
    text = (
        f"the weights of several such networks are there, with {' and '.join(repr(m.prefix) for m in found)} before "
        f"their names; say which to take: {choices}"
    )
    if len(prefixes) < len(found):
        lines = _two_lines(path, wanted, f"{{n: t for n, t in state.items() if not n.startswith({tuple(prefixes)})}}")
        text += f"; for those without a prefix make a state dict of them with {lines}"
    return text


def _two_lines(path: Path, wanted: str | None, new: str) -> str:
    """Return the two lines of Python that save a state dict made of one that is read, `state`."""
    chosen, after = ("", "") if wanted is None else (f", wanted={json.dumps(wanted)}", ", and leave `weights` out")
    return (
        f"`state = hidfd.networks.weights.read_state_dict({json.dumps(str(path))}{chosen})` and "
        f"`torch.save({new}, {json.dumps(converted_name(path))})`{after}"
    )


def _role(setting: str) -> str:
    """Return the beginning of a note: `teacher: ` of `trial.teacher.weights=`, nothing of an option."""
    parts = setting.split(".")
    return f"{parts[1]}: " if len(parts) > 1 else ""


def check_fit(
    state: Mapping[str, Tensor],
    module: nn.Module,
    where: str,
    path: str | Path = "CHECKPOINT",
    wanted: str | None = None,
) -> None:
    """Refuse a state dict that does not fit a network.

    Args:
        where: the setting, for messages.
        path: the file of the state dict, for messages.
        wanted: as of `read_state_dict`, which has read it.

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
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)][-1:]
    classifier = {f"{name}.{part}" for name in linear for part in ("weight", "bias")}
    theirs, ours = (len(weights.get(f"{(linear or ('',))[0]}.bias", ())) for weights in (state, expected))
    only_classifier = all(line.split(" ")[0] in classifier for line in misshaped)
    if not missing and not unexpected and only_classifier and theirs != ours:
        raise InputError(
            f"{where}: the checkpoint has {theirs} classes, trial.data.num_classes says {ours}; correct num_classes"
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
    lines = _two_lines(Path(path), wanted, new)
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
