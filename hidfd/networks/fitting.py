"""Give a state dict the names of a network, or say clearly why it does not fit."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from hidfd.errors import InputError
from hidfd.networks.checkpoint_files import converted_name
from hidfd.networks.weight_names import COUNTER, Match, listed_names, matches
from hidfd.networks.weights import SETTING, role_of


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
            note(f"{role_of(setting)}{Path(path).name}: names are matched with the network's: {match.in_words()}")
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
        f"{len(keys)} {kind}: {listed_names(keys)}"
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
        besides = f"; not of this network: {listed_names(extra)}" if extra else ""
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
