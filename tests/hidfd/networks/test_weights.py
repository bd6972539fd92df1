"""The user's state dicts: every way in which they are saved is read, and what does not fit is said in plain words."""

import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from hidfd.errors import InputError
from hidfd.networks.build import build_backbone
from hidfd.networks.weights import MAX_LISTED_KEYS, WRAPPERS, check_fit, read_state_dict

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


def test_whole_model_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    assert "save `model.state_dict()`" in refusal(saved(tmp_path / "teacher.pt", nn.Linear(2, 2)))


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
    assert f"{len(wanted)} missing: {', '.join(wanted[:MAX_LISTED_KEYS])}, ...;" in message
    assert f"{len(names)} unexpected: backbone.{names[0]}" in message
    assert wanted[MAX_LISTED_KEYS] + "," not in message


def test_another_number_of_classes_is_told_in_one_plain_sentence() -> None:
    state = build_backbone("resnet8", num_classes=7, channels=1, width=4).state_dict()
    assert misfit(state) == (
        "teacher.pt (resnet8): the checkpoint has 7 classes, trial.data.num_classes says 3; correct num_classes"
    )


def test_another_width_is_not_taken_for_another_number_of_classes() -> None:
    message = misfit(build_backbone("resnet8", num_classes=7, channels=1, width=8).state_dict())
    assert "mis-shaped: conv1.weight (8, 1, 3, 3) instead of (4, 1, 3, 3)" in message
