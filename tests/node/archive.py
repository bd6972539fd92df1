"""OCI image archives written without a container engine: what `ctr images import` reads."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

MEDIA = "application/vnd.oci.image"

BLOCK = 512
"""Bytes of a block of a tar file, whose first block has the name and size of what follows."""


@dataclass(frozen=True)
class Layer:
    """Files of an image, all owned by root.

    Attributes:
        folders: path in the image, without slashes around it -> folder whose contents are put there; None makes it
            empty, and an empty path is the image's root.
        without: paths in the image whose contents are left out.
    """

    folders: Mapping[str, Path | None]
    without: frozenset[str] = field(default_factory=frozenset)

    def write(self, stream: BinaryIO) -> None:
        """Write the files as a tar file."""
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, copybufsize=1 << 20) as tar:
            for place, folder in self.folders.items():
                path = Path(place)
                for each in reversed([path, *path.parents][:-1]):
                    _add_folder(tar, each.as_posix())
                for entry in sorted(folder.iterdir()) if folder else ():
                    tar.add(entry, (path / entry.name).as_posix(), filter=self._owned)

    def _owned(self, entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if any(entry.name.startswith(f"{path}/") for path in self.without):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry


def write_archive(file: Path, name: str, layers: Sequence[Layer], config: dict[str, Any]) -> None:
    """Write an image for one platform, this machine's.

    Args:
        name: with a tag, as pods name it.
        config: settings of a Dockerfile by the names of an OCI image: Env, User, WorkingDir, Cmd.
    """
    with file.open("w+b") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        written = [_add_layer(tar, stream, layer) for layer in layers]
        image = {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in written]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": _add_json(tar, f"{MEDIA}.config.v1+json", image),
            "layers": written,
        }
        names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
        listed = _add_json(tar, manifest["mediaType"], manifest) | {"annotations": names}
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode())
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')


class _Hashed(io.RawIOBase):
    """A stream that passes on what is written, and computes its digest."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._stream.write(data)


def _add_layer(tar: tarfile.TarFile, stream: BinaryIO, layer: Layer) -> dict[str, Any]:
    """Write a layer of gigabytes once, and afterwards its name, which is its digest."""
    start = stream.tell()
    stream.write(bytes(BLOCK))
    hashed = _Hashed(stream)
    layer.write(hashed)  # type: ignore[arg-type]
    end = stream.tell()
    size, digest = end - start - BLOCK, hashed.sha256.hexdigest()
    stream.write(bytes(-size % BLOCK))
    tar.offset = stream.tell()
    entry = tarfile.TarInfo(f"blobs/sha256/{digest}")
    entry.size = size
    stream.seek(start)
    stream.write(entry.tobuf(tarfile.GNU_FORMAT))
    stream.seek(tar.offset)
    return {"mediaType": f"{MEDIA}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}


def _add_json(tar: tarfile.TarFile, media: str, value: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(value).encode()
    digest = hashlib.sha256(data).hexdigest()
    _add(tar, f"blobs/sha256/{digest}", data)
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _add_folder(tar: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(entry)
