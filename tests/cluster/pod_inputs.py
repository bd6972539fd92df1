"""The environment and the mounted files of a container, as a kubelet prepares them."""

import base64
import re
import shutil
from pathlib import Path
from typing import Any

from tests.cluster.api_client import ApiClient, ApiError

Manifest = dict[str, Any]


class MissingInputError(Exception):
    """An input of a container does not exist (yet).

    Attributes:
        reason: why the container waits, in the kubelet's word.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PodInputs:
    """Read ConfigMaps and Secrets of any namespace, and make the mounts of a machine whose pods share all paths.

    A mount whose path begins with `below` is made there, for real and for all pods: a ConfigMap or Secret as a folder
    of files, a claim as a link to a folder of its own, an emptyDir as a plain folder. Other mounts are left alone.
    """

    def __init__(self, api: ApiClient, node: str, below: Path, claims: Path) -> None:
        self._api, self._node, self._below, self._claims = api, node, below, claims

    def environment(self, pod: Manifest, container: Manifest) -> dict[str, str]:
        """Return the environment that the container declares, resolved.

        Raises:
            MissingInputError: a Secret, ConfigMap or key is not there.
        """
        namespace: str = pod["metadata"]["namespace"]
        values: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            kind, key = ("secrets", "secretRef") if "secretRef" in source else ("configmaps", "configMapRef")
            data = self._data(kind, namespace, source[key])
            values |= {source.get("prefix", "") + name: value.decode() for name, value in data.items()}
        for variable in container.get("env", ()):
            source = variable.get("valueFrom")
            if source is None:
                value = variable.get("value", "")
            elif "fieldRef" in source:
                value = self._field(pod, source["fieldRef"]["fieldPath"])
            elif "secretKeyRef" in source or "configMapKeyRef" in source:
                value = self._key(namespace, source)
            else:
                value = ""  # resourceFieldRef: nothing here limits anything
            if value is not None:
                values[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda m: values.get(m[1], m[0]), value)
        return values

    def mount(self, pod: Manifest, container: Manifest) -> None:
        """Make the container's mounts.

        Raises:
            MissingInputError: a Secret or ConfigMap is not there, or something else is at the path.
        """
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
        for mount in sorted(container.get("volumeMounts", ()), key=lambda mount: len(mount["mountPath"])):
            at = Path(mount["mountPath"])
            if at.is_relative_to(self._below):
                try:
                    self._mount(pod["metadata"]["namespace"], volumes[mount["name"]], at, mount.get("subPath"))
                except MissingInputError as missing:
                    raise MissingInputError("ContainerCreating", f"MountVolume.SetUp failed: {missing}") from None
                except OSError as error:
                    raise MissingInputError("ContainerCreating", f"MountVolume.SetUp failed: {error}") from error

    def _mount(self, namespace: str, volume: Manifest, at: Path, sub_path: str | None) -> None:
        at.parent.mkdir(parents=True, exist_ok=True)
        if "persistentVolumeClaim" in volume:
            folder = self._claims / namespace / volume["persistentVolumeClaim"]["claimName"] / (sub_path or "")
            folder.mkdir(parents=True, exist_ok=True)
            if at.is_symlink():
                if at.readlink() == folder:
                    return
                at.unlink()
            elif at.exists():
                at.rmdir()  # an empty one that a mount below it made
            at.symlink_to(folder)
            return
        if "emptyDir" in volume:
            at.mkdir(exist_ok=True)
            return
        if "configMap" in volume:
            source = volume["configMap"]
            data = self._data("configmaps", namespace, source)
        elif "secret" in volume:
            source = volume["secret"]
            data = self._data("secrets", namespace, {"name": source["secretName"], **source})
        else:
            return
        files = data
        if "items" in source:
            files = {item["path"]: data[item["key"]] for item in source["items"]}
        if sub_path is not None:
            at.write_bytes(files[sub_path])
            return
        at.mkdir(exist_ok=True)
        for old in set(at.iterdir()) - {at / Path(name).parts[0] for name in files}:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        for name, content in files.items():
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            (at / name).write_bytes(content)

    def _data(self, kind: str, namespace: str, reference: Manifest) -> dict[str, bytes]:
        name = reference["name"]
        try:
            found = self._api.request("GET", f"/api/v1/namespaces/{namespace}/{kind}/{name}")
        except ApiError as refusal:
            if refusal.code != 404:
                raise
            if reference.get("optional"):
                return {}
            raise MissingInputError("CreateContainerConfigError", f'{kind[:-1]} "{name}" not found') from None
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        return {key: value.encode() for key, value in (found.get("data") or {}).items()}

    def _key(self, namespace: str, source: Manifest) -> str | None:
        kind, title = ("secrets", "Secret") if "secretKeyRef" in source else ("configmaps", "ConfigMap")
        reference = source.get("secretKeyRef") or source["configMapKeyRef"]
        key = reference["key"]
        data = self._data(kind, namespace, reference)
        if key in data:
            return data[key].decode()
        if reference.get("optional"):
            return None
        message = f"couldn't find key {key} in {title} {namespace}/{reference['name']}"
        raise MissingInputError("CreateContainerConfigError", message)

    def _field(self, pod: Manifest, path: str) -> str:
        metadata = pod["metadata"]
        label = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
        if label:
            return str(metadata.get(label[1], {}).get(label[2], ""))
        fields = {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "metadata.uid": metadata["uid"],
            "spec.nodeName": self._node,
            "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
            "status.podIP": "127.0.0.1",
            "status.hostIP": "127.0.0.1",
        }
        return str(fields.get(path, ""))
