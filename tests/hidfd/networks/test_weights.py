"""The user's state dicts: every way in which they are saved is read, and what does not fit is said in plain words."""

import argparse
import contextlib
import gzip
import pathlib
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import hidfd.networks.weights
from hidfd.errors import InputError
from hidfd.networks.build import build_backbone
from hidfd.networks.fitting import check_fit, fitted
from hidfd.networks.weight_names import MAX_LISTED_NAMES
from hidfd.networks.weights import WRAPPERS, check_finite, read_state_dict

STATE = {"conv.weight": torch.arange(4.0).view(2, 2), "fc.bias": torch.tensor([1.0, 2.0])}


def saved(path: Path, content: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return path


def check_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def refusal(path: Path) -> str:
    """Return the message that refuses a file: one line that names the file."""
    with pytest.raises(InputError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_state_dict_is_read_from_every_format(tmp_path: Path, suffix: str) -> None:
    check_same(read_state_dict(saved(tmp_path / f"teacher{suffix}", STATE)), STATE)


def test_state_dict_of_before_torch_1_6_is_read(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    check_same(read_state_dict(tmp_path / "old.pt"), STATE)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_prefixes_of_parallel_and_compiled_models_are_taken_off(tmp_path: Path, prefix: str, suffix: str) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in STATE.items()}
    check_same(read_state_dict(saved(tmp_path / f"teacher{suffix}", state)), STATE)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_state_dict_is_found_among_what_a_script_saves_with_it(tmp_path: Path, wrapper: str) -> None:
    content = {"epoch": 90, "best": 0.93, "args": ["--lr", "0.1"], "optimizer": {"state": {}}, wrapper: STATE}
    check_same(read_state_dict(saved(tmp_path / "teacher.pt", content)), STATE)


def test_twice_wrapped_state_dict_is_found(tmp_path: Path) -> None:
    check_same(read_state_dict(saved(tmp_path / "teacher.pt", {"model": {"state_dict": STATE}})), STATE)


def test_network_that_has_a_part_named_like_a_wrapper_is_taken_whole(tmp_path: Path) -> None:
    state = {"model.weight": torch.ones(2), "net": torch.zeros(1)}
    check_same(read_state_dict(saved(tmp_path / "teacher.pt", state)), state)


class Trap:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "teacher.pt"
    content = {"state_dict": STATE, "extra": Trap(sprung)}
    if kind == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    assert "not a readable state dict" in refusal(path)
    assert not sprung.exists()
    torch.load(path, weights_only=False) if kind == "torch" else pickle.loads(path.read_bytes())  # noqa: S301  this test made it
    assert sprung.exists(), "the trap would not have sprung anyway"


@pytest.mark.parametrize(
    "content",
    [{}, [torch.ones(2)], torch.ones(2), {"epoch": 3}, {"state_dict": {"fc": [1, 2]}}, {0: torch.ones(2)}],
)
def test_file_without_a_state_dict_is_refused_with_what_to_save_instead(tmp_path: Path, content: Any) -> None:
    message = refusal(saved(tmp_path / "teacher.pt", content))
    assert "holds no state dict" in message
    assert "save `model.state_dict()`" in message


def test_file_that_is_not_there_is_named_with_what_was_expected(tmp_path: Path) -> None:
    for path in (tmp_path / "teacher.pt", tmp_path):
        message = refusal(path)
        assert "no such file" in message
        assert ".safetensors, .pt or .pth" in message


@pytest.mark.parametrize("kind", ["zip", "before torch 1.6", "safetensors"])
def test_truncated_file_is_one_clear_error_wherever_it_ends(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("teacher.safetensors" if kind == "safetensors" else "teacher.pt")
    state = build_backbone("resnet8", num_classes=3, channels=1, width=1).state_dict()
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for share in (0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        assert "not a readable state dict" in refusal(path), share


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_file_of_something_else_is_one_clear_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"teacher{suffix}"
    for content in (b"\x89PNG\r\n\x1a\n" + bytes(64), b"<!DOCTYPE html>\n<html>", random.Random(0).randbytes(4096)):
        path.write_bytes(content)
        assert "not a readable state dict" in refusal(path)


def network() -> nn.Module:
    return build_backbone("resnet8", num_classes=3, channels=1, width=4)


def misfit(state: dict[str, Tensor]) -> str:
    with pytest.raises(InputError) as caught:
        check_fit(state, network(), "teacher.pt (resnet8)")
    message = str(caught.value)
    assert message.startswith("teacher.pt (resnet8): ")
    assert len(message.splitlines()) == 1
    return message


def test_state_dict_of_the_same_network_fits() -> None:
    check_fit(network().state_dict(), network(), "teacher.pt")


def test_state_dict_without_batch_counters_fits_and_loads_as_old_ones_do() -> None:
    state = {name: tensor for name, tensor in network().state_dict().items() if "num_batches" not in name}
    check_fit(state, network(), "teacher.pt")
    network().load_state_dict(state)


def test_missing_unexpected_and_misshapen_keys_are_all_listed_at_once() -> None:
    state = network().state_dict()
    del state["conv1.weight"]
    state["stem.weight"] = torch.ones(1)
    state["bn1.bias"] = torch.ones(9)
    message = misfit(state)
    for words in (
        "1 missing: conv1.weight",
        "1 unexpected: stem.weight",
        "1 mis-shaped: bn1.bias (9,) instead of (4,)",
    ):
        assert words in message
    assert "Check teacher.architecture and width" in message


def test_long_lists_of_keys_are_cut_but_counted() -> None:
    names = list(network().state_dict())
    wanted = [name for name in names if "num_batches" not in name]
    message = misfit({f"backbone.{name}": tensor for name, tensor in network().state_dict().items()})
    assert f"{len(wanted)} missing: {', '.join(wanted[:MAX_LISTED_NAMES])}, ...;" in message
    assert f"{len(names)} unexpected: backbone.{names[0]}" in message
    assert wanted[MAX_LISTED_NAMES] + "," not in message


def test_another_number_of_classes_is_told_in_one_plain_sentence() -> None:
    state = build_backbone("resnet8", num_classes=7, channels=1, width=4).state_dict()
    assert misfit(state) == (
        "teacher.pt (resnet8): the checkpoint has 7 classes, trial.data.num_classes says 3; correct num_classes"
    )


def test_another_width_is_not_taken_for_another_number_of_classes() -> None:
    message = misfit(build_backbone("resnet8", num_classes=7, channels=1, width=8).state_dict())
    assert "mis-shaped: conv1.weight (8, 1, 3, 3) instead of (4, 1, 3, 3)" in message


def in_two_lines(message: str, folder: Path) -> dict[str, Tensor]:
    """Run the two lines of Python that a message gives, in a folder, and read the state dict that they write."""
    first, second = re.findall(r"`((?:state = |torch\.save|safetensors\.torch\.save).*?)`", message)
    names = {"torch": torch, "safetensors": safetensors, "pathlib": pathlib, "hidfd": hidfd}
    with contextlib.chdir(folder):
        exec(f"{first}\n{second}", names)  # noqa: S102  the message is what is tested
        match = re.search(r"[\"']([^\"']*-state\.pt|teacher\.safetensors)[\"']\)$", second)
        assert match is not None, second
        return read_state_dict(match[1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": STATE, "best": np.float64(91.2)}, "scalar (a NumPy number or array)"),
        ({"state_dict": STATE, "acc": np.float32(0.9), "epoch": 3}, "scalar (a NumPy number or array)"),
        ({"opt": argparse.Namespace(lr=0.05), "net": STATE}, "argparse.Namespace (options of a script)"),
        ({"args": {"out": PurePosixPath("x")}, "weights": STATE}, "PosixPath (an object of the script"),
        ({"run": {"lists": [np.arange(3)], "student": STATE}}, "_reconstruct (a NumPy number or array)"),
    ],
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_what_weights_only_refuses_is_named_with_two_lines_that_mend_it(
    tmp_path: Path, content: Any, words: str, is_zip: bool
) -> None:
    path = tmp_path / "teacher.pth.tar"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    message = refusal(path)
    assert "damaged" not in message
    assert words in message
    check_same(in_two_lines(message, tmp_path), STATE)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("key", [None, "net"])
def test_pickled_network_is_named_with_two_lines_that_mend_it(tmp_path: Path, is_zip: bool, key: str | None) -> None:
    path, whole = tmp_path / "teacher.pt", nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    torch.save(whole if key is None else {key: whole, "acc": 3}, path, _use_new_zipfile_serialization=is_zip)
    message = refusal(path)
    assert "a whole pickled network (torch.nn.modules.container.Sequential)" in message
    check_same(in_two_lines(message, tmp_path), whole.state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_scripted_network_is_named_with_two_lines_that_mend_it(tmp_path: Path) -> None:
    whole = nn.Linear(2, 2)
    torch.jit.save(torch.jit.script(whole), tmp_path / "teacher.pt")
    message = refusal(tmp_path / "teacher.pt")
    assert "TorchScript" in message
    check_same(in_two_lines(message, tmp_path), whole.state_dict())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n", "Git LFS pointer"),
        (b"/annex/objects/SHA256E-s1--0.pt\n", "git-annex pointer"),
        (b"\n <!DOCTYPE html>\n<html>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page or XML"),
        (b'{"metadata": {"total_size": 1}, "weight_map": {}}', "JSON"),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (b"", "empty"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_of_something_else_is_called_what_it_is(tmp_path: Path, content: bytes, words: str, suffix: str) -> None:
    path = tmp_path / f"teacher{suffix}"
    path.write_bytes(content)
    assert words in refusal(path)
    assert "damaged" not in refusal(path)


def test_checkpoint_under_the_suffix_of_the_other_format_is_to_be_renamed(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors", STATE).rename(tmp_path / "a.pt")
    assert "rename it to .safetensors" in refusal(tmp_path / "a.pt")
    saved(tmp_path / "b.pt", STATE).rename(tmp_path / "b.safetensors")
    assert "rename it to .pt" in refusal(tmp_path / "b.safetensors")


RAW = {name: tensor + 1 for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    ("content", "taken", "left"),
    [
        ({"state_dict": RAW, "state_dict_ema": STATE}, "state_dict", "state_dict_ema (averaged weights)"),
        ({"model": RAW, "ema": STATE}, "model", "ema (averaged weights)"),
        ({"net": RAW, "averaging": {"swa_model": {"module.a": torch.ones(1), **STATE}}}, "net", "averaging.swa_model"),
    ],
)
def test_averaged_weights_beside_the_raw_ones_are_said_with_the_setting_that_takes_them(
    tmp_path: Path, content: Any, taken: str, left: str
) -> None:
    notes: list[str] = []
    path = saved(tmp_path / "teacher.pt", content)
    check_same(read_state_dict(path, notes.append), RAW)
    [note] = notes
    assert f"taken from {taken}, not from {left}" in note
    chosen = read_state_dict(path, wanted=setting_in(note))
    assert all(torch.equal(chosen[name], STATE[name]) for name in STATE)


def setting_in(message: str) -> str:
    """Return the value of `weights` that a message proposes."""
    match = re.search(r"trial\.teacher\.weights=([^\s;]+)", message)
    assert match is not None, message
    return match[1]


@pytest.mark.parametrize("wanted", ["student", "student."])
def test_weights_are_chosen_by_what_their_names_begin_with(tmp_path: Path, wanted: str) -> None:
    both = {f"student.{n}": t for n, t in STATE.items()} | {f"students.{n}": t + 1 for n, t in STATE.items()}
    check_same(
        read_state_dict(saved(tmp_path / "teacher.pt", {"state_dict": both}), wanted=f"state_dict.{wanted}"), STATE
    )


@pytest.mark.parametrize(("content", "there"), [({"model": STATE, "ema": RAW}, "ema, model"), (STATE, "conv, fc")])
def test_weights_that_are_not_there_are_answered_with_those_that_are(tmp_path: Path, content: Any, there: str) -> None:
    path = saved(tmp_path / "teacher.pt", content)
    with pytest.raises(InputError, match=rf"trial\.judge\.weights=average: .*; there are {there}$"):
        read_state_dict(path, wanted="average", setting="trial.judge.weights=")


def test_optimizer_beside_the_weights_is_no_other_choice(tmp_path: Path) -> None:
    content = {"model": STATE, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2, 2)}}}, "scaler": {}}
    notes: list[str] = []
    read_state_dict(saved(tmp_path / "teacher.pt", content), notes.append)
    assert len(notes) == 1
    assert notes[0].endswith("taken from model")


def test_plain_state_dict_needs_no_word(tmp_path: Path) -> None:
    notes: list[str] = []
    read_state_dict(saved(tmp_path / "teacher.pt", STATE), notes.append)
    assert notes == []


@pytest.mark.parametrize("keys", [("model_ema",), ("ema_state_dict",), ("weights", "student")])
def test_state_dict_under_another_key_is_found_and_said(tmp_path: Path, keys: tuple[str, ...]) -> None:
    content: Any = STATE
    for key in reversed(keys):
        content = {key: content, "epoch": 3}
    path = saved(tmp_path / "teacher.pt", content)
    message = refusal(path)
    assert f"but under {'.'.join(keys)}" in message
    check_same(read_state_dict(path, wanted=setting_in(message)), STATE)


def test_numbers_among_the_tensors_are_named(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path / "teacher.pt", {**STATE, "epoch": 3, "name": "x"}))
    assert "epoch (int), name (str)" in message
    check_same(in_two_lines(message, tmp_path), STATE)


def mended_names(state: dict[str, Tensor], folder: Path, architecture: str = "resnet8") -> str:
    """Check that a state dict is refused with two lines that make it fit; return the message."""
    path = saved(folder / "teacher.pt", state)
    net = build_backbone(architecture, num_classes=3, channels=1, width=None)
    with pytest.raises(InputError) as caught:
        fitted(read_state_dict(path), net, "teacher.pt", path)
    fitted(in_two_lines(str(caught.value), folder), net, "mended")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def matched(state: dict[str, Tensor], architecture: str = "resnet8") -> str:
    """Check that a state dict is taken for that of `named(str)`; return what is said of it."""
    notes: list[str] = []
    net = build_backbone(architecture, num_classes=3, channels=1, width=None)
    found = fitted(state, net, "teacher.pt", "folder/teacher.pt", notes.append)
    expected = named(str, architecture)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    [note] = notes
    assert note.startswith("teacher: teacher.pt: names are matched with the network's: ")
    return note


def named(rename: Callable[[str], str], architecture: str = "resnet8") -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = build_backbone(architecture, num_classes=3, channels=1, width=None).state_dict()
    return {rename(name): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["model.", "1.", "teacher.backbone.", "net-"])
def test_weights_under_a_prefix_are_taken_and_said(prefix: str) -> None:
    note = matched(named(lambda name: prefix + name) | {"loss.weight": torch.ones(3)})
    assert f"{prefix!r} before every name is taken off" in note
    assert "not of this network, left out: loss.weight" in note


def test_averaged_network_inside_the_same_state_dict_is_to_be_chosen(tmp_path: Path) -> None:
    both = named(lambda name: f"model.{name}") | named(lambda name: f"ema.module.{name}")
    net = build_backbone("resnet8", num_classes=3, channels=1)
    path = saved(tmp_path / "last.ckpt.pt", {"state_dict": both})
    with pytest.raises(InputError, match=r"with 'ema\.module\.' and 'model\.' before their names") as caught:
        fitted(read_state_dict(path), net, "last.ckpt.pt")
    chosen = fitted(read_state_dict(path, wanted=setting_in(str(caught.value))), net, "last.ckpt.pt")
    assert all(torch.equal(chosen[name], tensor) for name, tensor in named(str).items())


@pytest.mark.parametrize(
    ("wrap", "choices"),
    [
        (lambda a, b: prefixed("module.student.", a) | prefixed("module.teacher.", b), ["student", "teacher"]),
        (lambda a, b: {"model": prefixed("ema.", a) | prefixed("model.", b)}, ["ema", "model"]),
        (lambda a, b: prefixed("0.", a) | prefixed("1.", b), ["0", "1"]),
    ],
)
def test_each_choice_that_a_message_offers_takes_its_network(
    tmp_path: Path, wrap: Callable[..., Any], choices: list[str]
) -> None:
    networks = [{name: tensor + shift for name, tensor in named(str).items()} for shift in (0, 1)]
    net = build_backbone("resnet8", num_classes=3, channels=1)
    path = saved(tmp_path / "both.pt", wrap(*networks))
    with pytest.raises(InputError, match="say which to take") as caught:
        fitted(read_state_dict(path), net, "both.pt")
    assert re.findall(r"weights=(\w+)", str(caught.value)) == choices
    for choice, network in zip(choices, networks, strict=True):
        found = fitted(read_state_dict(path, wanted=choice), net, "both.pt")
        assert all(torch.equal(found[name], network[name]) for name in network)


def test_weights_that_are_there_with_and_without_a_prefix_are_refused_when_they_are_chosen_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "teacher.pt", {"average": STATE | prefixed("module.", RAW)})
    with pytest.raises(InputError, match="holds some weights twice"):
        read_state_dict(path, wanted="average")


def test_average_nested_beside_the_weights_is_never_taken_silently(tmp_path: Path) -> None:
    average = {name: tensor + 1 for name, tensor in named(str).items()}
    path = saved(tmp_path / "teacher.pt", named(str) | prefixed("ema.", average))
    net = build_backbone("resnet8", num_classes=3, channels=1)
    with pytest.raises(InputError, match="say which to take") as caught:
        fitted(read_state_dict(path), net, "teacher.pt", path)
    chosen = fitted(read_state_dict(path, wanted=setting_in(str(caught.value))), net, "teacher.pt")
    assert all(torch.equal(chosen[name], average[name]) for name in average)
    bare = fitted(in_two_lines(str(caught.value), tmp_path), net, "teacher.pt")
    assert all(torch.equal(bare[name], tensor) for name, tensor in named(str).items())


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def test_lines_that_rename_read_the_weights_that_were_chosen(tmp_path: Path) -> None:
    other = named(lambda name: name.replace("layer", "stage"))
    path = saved(tmp_path / "teacher.pt", {"state_dict": prefixed("x.", other), "average": other})
    net = build_backbone("resnet8", num_classes=3, channels=1)
    with pytest.raises(InputError, match="and leave `weights` out") as caught:
        fitted(read_state_dict(path, wanted="average"), net, "teacher.pt", path, wanted="average")
    fitted(in_two_lines(str(caught.value), tmp_path), net, "mended")


@pytest.mark.parametrize("rename", [lambda name: f"model.{name}", lambda name: name.replace("fc.", "linear.")])
def test_another_number_of_classes_is_plain_whatever_the_names(rename: Callable[[str], str]) -> None:
    state = build_backbone("resnet8", num_classes=7, channels=1).state_dict()
    with pytest.raises(InputError, match="the checkpoint has 7 classes, trial.data.num_classes says 3"):
        fitted(
            {rename(name): tensor for name, tensor in state.items()},
            build_backbone("resnet8", num_classes=3, channels=1),
            "teacher.pt",
        )


def test_counters_of_other_programs_beside_the_weights_are_left_out_and_said() -> None:
    extra = {"total_ops": torch.zeros(1), "layer1.0.total_params": torch.zeros(1), "n_averaged": torch.tensor(5)}
    assert "left out: total_ops, layer1.0.total_params, n_averaged" in matched(named(str) | extra)


def test_other_weights_beside_those_of_the_network_are_named_with_two_lines_that_drop_them(tmp_path: Path) -> None:
    message = mended_names(named(str) | {"head.weight": torch.zeros(3, 64), "n_averaged": torch.tensor(5)}, tmp_path)
    assert "; not of this network: head.weight, n_averaged" in message


def in_cmi_names(name: str) -> str:
    """Return the name of a weight of ours in the networks of CMI, DAFL and ZSKT."""
    name = name.replace("downsample", "shortcut").replace("fc.", "linear.")
    if not name.startswith("b"):  # a ResNet's
        return name
    return re.sub(r"^bn\.", "bn1.", re.sub(r"^(block\d)\.", r"\1.layer.", name)).replace("shortcut", "convShortcut")


FIELD: dict[str, tuple[str, Callable[[str], str], tuple[str, ...]]] = {
    "a ResNet of CMI, DAFL or ZSKT": (
        "resnet18-32px",
        in_cmi_names,
        ("linear.weight is fc.weight here", "shortcut.0.weight is layer2.0.downsample.0.weight here"),
    ),
    "a wide ResNet of CMI or ZSKT": (
        "wrn-16-1",
        in_cmi_names,
        ("bn1.weight is bn.weight here", "block2.layer.0.convShortcut.weight is block2.0.shortcut.weight here"),
    ),
    "a VGG of RepDistiller": (
        "vgg8",
        lambda name: name.replace("fc.", "classifier."),
        ("classifier.weight is fc.weight here",),
    ),
    "a ShuffleNet of RepDistiller": (
        "shufflenetv1-32px",
        lambda name: name.replace("fc.", "linear."),
        ("linear.weight is fc.weight here",),
    ),
    "Lightning": ("resnet8x4", lambda name: f"model.{name}", ("'model.' before every name is taken off",)),
}
"""Where checkpoints come from -> network, its names there, and what is said of them."""


@pytest.mark.parametrize("origin", FIELD)
def test_names_of_the_fields_other_projects_are_known_and_said(origin: str) -> None:
    architecture, rename, words = FIELD[origin]
    note = matched(named(rename, architecture), architecture)
    assert all(said in note for said in words), note


def test_weights_of_another_shape_are_never_matched() -> None:
    state = named(lambda name: f"model.{name}")
    state["model.layer1.0.conv1.weight"] = state["model.layer1.0.conv1.weight"][:, :8]
    with pytest.raises(InputError, match="does not fit"):
        fitted(state, build_backbone("resnet8", num_classes=3, channels=1), "teacher.pt")


@pytest.mark.parametrize(
    ("architecture", "rename"),
    [("resnet18-32px", lambda name: name.replace("layer", "stage").replace("bn1.", "norm1."))],
)
def test_weights_that_agree_but_for_names_are_said_so_with_two_lines(
    tmp_path: Path, architecture: str, rename: Callable[[str], str]
) -> None:
    message = mended_names(named(rename, architecture), tmp_path, architecture)
    assert "the right shapes in the right order, but other names" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_counted_and_the_first_is_named(value: float) -> None:
    state = network().state_dict()
    state["layer2.0.conv1.weight"][0, 0, 0, :2] = value
    state["fc.bias"][0] = value
    with pytest.raises(
        InputError, match=r"^here: 3 weights are not finite, in 2 of \d+ tensors; the first is layer2.0"
    ):
        check_finite(state, "here")


def test_negative_variances_are_refused() -> None:
    state = network().state_dict()
    state["bn1.running_var"][0] = -1
    with pytest.raises(InputError, match=r"bn1\.running_var has variances below 0"):
        check_finite(state, "here")


def test_finite_weights_pass() -> None:
    check_finite(network().state_dict(), "here")
