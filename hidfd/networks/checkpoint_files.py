"""Say what a file holds that cannot be read as a state dict, without running any of its code."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

MAX_DEPTH = 3
"""Depth of nesting in which state dicts are looked for."""

Keys = tuple[str, ...]
"""Keys that lead into nested mappings."""

_BEGINNINGS = (
    (b"version https://git-lfs", "it is a Git LFS pointer instead of the file itself; run `git lfs pull`"),
    (b"/annex/objects/", "it is a git-annex pointer instead of the file itself; run `git annex get`"),
    (b"\x89PNG", "it is a PNG image"),
    (b"\xff\xd8\xff", "it is a JPEG image"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes them"),
    (b"\x93NUMPY", "it is a NumPy array"),
    (b"PAR1", "it is a Parquet file"),
    (b"GGUF", "it is a GGUF file"),
    (b"\x1f\x8b", "it is compressed by gzip; unpack it first"),
    (b"BZh", "it is compressed by bzip2; unpack it first"),
    (b"\xfd7zXZ", "it is compressed by xz; unpack it first"),
    (b"{", "it is JSON text, such as an index or a settings file; give the file of weights beside it"),
    (b"<", "it is a web page or XML instead of the file itself; download the file that the page links to"),
)
"""First bytes of files that are no checkpoints, and what to say of them."""

_REFUSED = re.compile(r"(?:GLOBAL|[Gg]lobal|function|class|type) ((?:\w+\.)+\w+)")
"""The class or function in the messages with which torch refuses to unpickle."""


def foreign_content(path: Path) -> str | None:
    """Return what a file is by its first bytes, if these are of no file of weights; None otherwise.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head.strip():
        return "it is empty; copy or download it again"
    if head[257:262] == b"ustar":
        return "it is a tar archive; unpack it first"
    is_safetensors = head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size
    if is_safetensors and path.suffix != ".safetensors":
        return "it is a safetensors file under another suffix; rename it to .safetensors"
    is_zip = head.startswith(b"PK\x03\x04")
    if is_zip and path.suffix == ".safetensors":
        return "it is a zip archive such as torch.save makes; rename it to .pt"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    found = next((words for beginning, words in _BEGINNINGS if start.startswith(beginning)), None)
    return found or (_content_of_zip(path) if is_zip else None)


def _content_of_zip(path: Path) -> str | None:
    """Return what a zip archive is that torch.save has not made; None for its own and for damaged ones."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError):
        return None
    if any(name.endswith("/constants.pkl") for name in names):
        return "it is a TorchScript archive; " + conversion(path, ".state_dict()", load="torch.jit.load({path})")
    if any(name.endswith("data.pkl") for name in names):
        return None
    if any(name.endswith(".npy") for name in names):
        return "it is an archive of NumPy arrays"
    if any("exported_program" in name or "/models/" in name for name in names):
        return "it is an exported program; " + conversion(path, ".state_dict", load="torch.export.load({path})")
    return "it is a zip archive of something else; unpack it first"


def refused_content(path: Path, error: Exception) -> str | None:
    """Return what torch refuses to unpickle, and the two lines that make a plain state dict; None for another error.

    Args:
        path: a file that torch.save has made.
        error: of `torch.load(..., weights_only=True)`.
    """
    if not isinstance(error, pickle.UnpicklingError):
        return None
    match = _REFUSED.search(str(error))
    if match is None:
        return None
    name, outline = match[1], outline_of(path)
    network = next(_found(outline, _is_network), None)
    keys = next(_found(outline, _is_state_dict_outline), None)
    if keys is None and network is not None:
        access = f"{access_code(network)}.state_dict()"
        return (
            f"it holds a whole pickled network ({name}) instead of its weights, which weights_only refuses since "
            f"unpickling it runs code; if you trust it, where its classes can be imported: {conversion(path, access)}"
        )
    access = '["KEY OF THE STATE DICT"]' if keys is None else access_code(keys)
    return (
        f"it also holds {name} ({_meaning(name)}), which weights_only refuses since unpickling it runs code; if you "
        f"trust it: {conversion(path, access)}"
    )


def conversion(path: Path, access: str, *, load: str = "torch.load({path}, weights_only=False)") -> str:
    """Return the two lines of Python that write the plain state dict of a checkpoint.

    Args:
        access: the code that gets the state dict from what `load` returns.
        load: the code that reads the file.
    """
    state = load.format(path=json.dumps(str(path), ensure_ascii=False)) + access
    return f"`state = {state}` and `torch.save(state, {json.dumps(converted_name(path), ensure_ascii=False)})`"


def converted_name(path: Path) -> str:
    """Return the name that messages propose for the plain state dict of a checkpoint."""
    return f"{path.name.split('.')[0]}-state.pt"


def state_dicts(content: Any) -> Iterator[Keys]:
    """Yield the keys to every state dict in nested mappings."""
    return _found(content, is_state_dict)


def is_state_dict(content: Any) -> bool:
    """Return whether something maps names to tensors, at least one."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _is_state_dict_outline(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(
            isinstance(name, str) and isinstance(value, Inert) and value.is_tensor for name, value in content.items()
        )
    )


def _is_network(content: Any) -> bool:
    return isinstance(content, Inert) and content.has_modules


def _found(content: Any, is_wanted: Callable[[Any], bool], keys: Keys = ()) -> Iterator[Keys]:
    if is_wanted(content):
        yield keys
    elif isinstance(content, Mapping) and len(keys) < MAX_DEPTH:
        for name, value in content.items():
            if isinstance(name, str):
                yield from _found(value, is_wanted, (*keys, name))


def access_code(keys: Keys) -> str:
    """Return the code that follows keys into nested mappings."""
    return "".join(f"[{json.dumps(key, ensure_ascii=False)}]" for key in keys)


def _meaning(name: str) -> str:
    if name.startswith("numpy"):
        return "a NumPy number or array"
    if name == "argparse.Namespace":
        return "options of a script"
    if name.startswith("torch.nn."):
        return "a part of a pickled network"
    return "an object of the script that saved it"


class Inert:
    """An object of a pickle that is never built: it remembers its class's name and takes what unpickling does to it.

    Attributes:
        name: module and name of its class, or of the function that would make it.
        has_modules: whether it is a network.
    """

    name = ""
    has_modules = False

    def __init__(self, *_args: Any, **_values: Any) -> None:
        """Take the arguments of the class or function that is not called."""

    def __setstate__(self, state: Any) -> None:
        self.has_modules = isinstance(state, Mapping) and "_modules" in state

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Leave an item out."""

    def extend(self, _values: Any) -> None:
        """Leave items out."""

    append = add = extend

    @property
    def is_tensor(self) -> bool:
        """Whether it would be a tensor or a parameter."""
        return self.name.startswith("torch._utils._rebuild_")


class _InertUnpickler(pickle.Unpickler):
    """An unpickler that builds only Python's own containers, numbers and texts; all else is `Inert`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return type("Inert_", (Inert,), {"name": f"{module}.{name}"})

    def persistent_load(self, content: Any) -> Any:
        is_class = isinstance(content, tuple) and len(content) > 1 and content[0] == "module"
        return content[1] if is_class else None


def outline_of(path: Path) -> Any:
    """Return what a file of torch.save or pickle holds, with `Inert` for all that is no container, number or text.

    None where the file is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(name) as file:
                    return _InertUnpickler(file).load()
        with path.open("rb") as file:
            content = _InertUnpickler(file).load()
            if isinstance(content, int):  # before torch 1.6: a number, a version and the machine come first
                for _ in range(3):
                    content = _InertUnpickler(file).load()
            return content
    except Exception:  # noqa: BLE001  a damaged pickle may raise anything
        return None
