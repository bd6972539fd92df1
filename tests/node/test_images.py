"""The parts that need neither root nor a node: archives of images, the Dockerfile, and DNS."""

import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api_client import ApiError
from tests.node.archive import Layer, write_archive
from tests.node.cluster_dns import answer
from tests.node.dockerfile import read_dockerfile


def blobs(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar.getmembers()}  # type: ignore[union-attr]


def test_archive_has_every_layer_under_its_own_digest(tmp_path: Path) -> None:
    for name in ("base/etc/hosts", "base/tmp/left", "venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    layers = [Layer({"": tmp_path / "base"}, frozenset({"tmp"})), Layer({"opt/hidfd": tmp_path / "venv", "work": None})]
    write_archive(tmp_path / "image.tar", "local.test/a:b", layers, {"User": "1000:1000"})
    found = blobs(tmp_path / "image.tar")
    for name, data in found.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"
    (listed,) = json.loads(found["index.json"])["manifests"]
    assert listed["annotations"]["io.containerd.image.name"] == "local.test/a:b"
    manifest = json.loads(found[f"blobs/sha256/{listed['digest'].removeprefix('sha256:')}"])
    names = []
    for layer in manifest["layers"]:
        data = found[f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}"]
        assert layer["size"] == len(data)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names.append(tar.getnames())
            assert {(entry.uid, entry.gid) for entry in tar} == {(0, 0)}
    base, rest = names
    assert set(base) == {"etc", "etc/hosts", "tmp"}
    assert rest == ["opt", "opt/hidfd", "opt/hidfd/bin", "opt/hidfd/bin/python", "work"]


def test_image_is_made_as_the_dockerfile_says() -> None:
    dockerfile = read_dockerfile()
    assert dockerfile.packages() == ["wget"]
    assert dockerfile.installs(0)[-4:] == ["--extra", "image", "-r", "pyproject.toml"]
    assert dockerfile.installs(1)[-2:] == ["/opt/project", "."]
    assert {"hidfd", "tune", "k8s", "pyproject.toml"} <= set(dockerfile.copies())
    config = dockerfile.config()
    assert (config["User"], config["WorkingDir"]) == ("1000:1000", "/work")
    assert "PYTHONPATH=/opt/project" in config["Env"]
    assert any(word.startswith("PATH=/opt/hidfd/bin:") and "$" not in word for word in config["Env"])


class _Services:
    """An API server with one Service, `web` in `studies`."""

    def request(self, _method: str, path: str) -> Any:
        if "/endpointslices?" in path:
            ready = {"addresses": ["10.244.7.2"], "conditions": {"ready": True}}
            return {"items": [{"endpoints": [ready, {"addresses": ["10.244.7.3"], "conditions": {"ready": False}}]}]}
        if path != "/api/v1/namespaces/studies/services/web":
            raise ApiError(404, b"{}")
        return {"spec": {"clusterIP": "10.96.0.7"}}


@pytest.mark.parametrize(
    ("name", "kind", "code", "found"),
    [
        ("web.studies.svc.cluster.local", 1, 0, [b"\x0a\xf4\x07\x02"]),
        ("web.studies.svc.cluster.local", 28, 0, []),
        ("web.studies.svc.cluster.local.cluster.local", 1, 3, []),
        ("else.studies.svc", 1, 3, []),
    ],
)
def test_dns_answers_with_the_ready_pods_of_a_service(name: str, kind: int, code: int, found: list[bytes]) -> None:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = b"\x12\x34" + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)
    got = answer(_Services(), query)  # type: ignore[arg-type]
    identity, flags, _, count = struct.unpack(">HHHH", got[:8])
    assert (identity, flags & 0xF, count) == (0x1234, code, len(found))
    assert got[len(query) :][12:16] == b"".join(found)
