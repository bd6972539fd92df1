"""Networks from elsewhere, built by their names: torchvision's, timm's, and those of a file of the user's own."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hidfd.config.architectures import OWN
from hidfd.config.schema import Material
from hidfd.distributed.random_streams import stream
from hidfd.errors import InputError
from hidfd.formatting import near_match
from hidfd.networks.backbones.outside_network import OutsideNetwork
from hidfd.networks.backbones.timm_network import TimmNetwork
from hidfd.networks.backbones.traced_network import TracedNetwork
from hidfd.pipeline.network_sizes import code_of


def outside_backbone(
    architecture: str, num_classes: int, channels: int, code: Material | None, image_size_pixels: int
) -> OutsideNetwork:
    """Build a network from elsewhere with fresh weights.

    Args:
        architecture: `torchvision:NAME`, `timm:NAME` or `FILE.py:FUNCTION`.
        num_classes: K.
        channels: of its images, 1 or 3; a first convolution of other channels is replaced.
        code: the file of `FILE.py:FUNCTION`.
        image_size_pixels: side of the images that it is tried with.

    Raises:
        InputError: there is no such network, it cannot be built, or it is no backbone (`OutsideNetwork`).
    """
    own = OWN.fullmatch(architecture)
    if own is not None:
        network = _own_network(architecture, own["factory"], code, num_classes, channels)
    else:
        network = zoo_network(architecture, num_classes, channels)
    images = torch.randn(2, channels, image_size_pixels, image_size_pixels, generator=stream(0, "network", "probe"))
    if architecture.startswith("timm:"):
        return TimmNetwork(network, architecture, num_classes, images)
    return TracedNetwork(network, architecture, num_classes, images, is_strict=own is not None)


def zoo_network(architecture: str, num_classes: int, channels: int) -> nn.Module:
    """Build a network of torchvision or timm as it is published.

    Raises:
        InputError: there is no such network, or timm is not installed.
    """
    collection, _, name = architecture.partition(":")
    make = _torchvision_network if collection == "torchvision" else _timm_network
    return make(name, num_classes, channels)


def _torchvision_network(name: str, num_classes: int, channels: int) -> nn.Module:
    from torchvision import models

    _check_name(name, models.list_models(module=models), "torchvision", "torchvision.models.list_models()")
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    _set_channels(network, channels)
    return network


def _timm_network(name: str, num_classes: int, channels: int) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise InputError(f"timm:{name}: timm is not installed here; `pip install timm`, on every node") from error
    bare, _, tag = name.partition(".")  # the tag names weights, which are the user's here
    _check_name(bare, timm.list_models(), "timm", "timm.list_models()")
    if tag:
        _check_name(name, timm.list_pretrained(f"{bare}.*"), "timm", f"timm.list_pretrained('{bare}.*')")
    network: nn.Module = timm.create_model(bare, pretrained=False, num_classes=num_classes, in_chans=channels)
    return network


def _check_name(name: str, known: Sequence[str], collection: str, listing: str) -> None:
    if name in known:
        return
    near = near_match(name, known)
    meant = f"did you mean {collection}:{near}?" if near is not None else f"`{listing}` has all names"
    raise InputError(f"{collection}:{name}: {collection} has no such classification network; {meant}")


def _set_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution where it reads images of other channels."""
    path, first = next((path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    if first.in_channels == channels:
        return
    shape: dict[str, Any] = {name: getattr(first, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    network.set_submodule(path, nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **shape))


def _own_network(architecture: str, factory: str, code: Material | None, num_classes: int, channels: int) -> nn.Module:
    module = _own_module(architecture, code)
    make = getattr(module, factory, None)
    if not callable(make):
        there = [name for name, value in vars(module).items() if inspect.isfunction(value) or inspect.isclass(value)]
        own = [name for name in there if getattr(getattr(module, name), "__module__", None) == module.__name__]
        raise InputError(
            f"{architecture}: the file has no function {factory}; it has {', '.join(own) if own else 'none at all'}"
        )
    network = _called(architecture, lambda: make(num_classes=num_classes, channels=channels))
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{architecture}: returned {type(network).__name__}; expected a torch.nn.Module with the logits of "
            f"{num_classes:,} classes"
        )
    return network


def _own_module(architecture: str, code: Material | None) -> ModuleType:
    assert code is not None
    assert code.sha256 is not None
    name = f"hidfd_own_{code.sha256[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = architecture.rpartition(":")[0]
    source, file = code_of(code), module.__file__
    program = _called(architecture, lambda: compile(source, file, "exec", dont_inherit=True))
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        # What the file draws while it is read shall not depend on who reads it first.
        with torch.random.fork_rng(devices=[]):
            _called(architecture, lambda: exec(program, module.__dict__))  # noqa: S102  the user's own, by sha256
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _called(architecture: str, call: Callable[[], Any]) -> Any:
    """Run code of the user's file; say where in it an error is.

    Raises:
        InputError: it raised something.
    """
    try:
        return call()
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        file, frames = architecture.rpartition(":")[0], traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        where = "" if line is None else f", line {line}"
        why = ""
        if isinstance(error, ModuleNotFoundError):
            why = "; it is one file, which may import installed packages only"
        elif isinstance(error, TypeError) and line is None:
            why = "; it is called with num_classes=K and channels=C, and returns the network"
        raise InputError(f"{architecture}{where}: {type(error).__name__}: {error}{why}") from error
