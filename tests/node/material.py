"""The files of the walkthrough's user: values for the chart, a study file with its images, a pod to use a shell in.

Where the store is on S3, `s3` has AWS's variables, which a Secret gets; None: the store is in the chart's claim.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from k8s.manifest import WORK_FOLDER
from tests.integration.conftest import tiny_study, tiny_workplace
from tests.node.images import POSTGRESQL, PROJECT

NAMESPACE, RELEASE, STUDY = "studies", "hidfd", "tiny"

MOUNT = "/mnt/hidfd"
"""Folder in which the chart's claim is mounted, in MLflow's pod and in a study's."""

SECRET, SECRET_FILE = "s3", "s3.env"
"""The Secret with S3's address and keys, and the file that it is made from."""

S3 = Mapping[str, str] | None


def _image(name: str) -> dict[str, str]:
    repository, tag = name.split(":")
    return {"repository": repository, "tag": tag, "pullPolicy": "Never"}


def store_of(s3: S3) -> str:
    """Return the address of the study's store, as the chart's notes say."""
    return f"{MOUNT}/store" if s3 is None else "s3://artifacts/hidfd/store"


def values(s3: S3) -> dict[str, Any]:
    """Return values of the chart for a small node that cannot pull images. `developer` has only the rights in them."""
    storage: dict[str, Any] = {"claim": {"size": "5Gi"}}
    if s3 is not None:
        bucket = {"bucket": "artifacts", "endpoint": s3["AWS_ENDPOINT_URL"], "existingSecret": SECRET}
        storage = {"kind": "s3", "s3": bucket}
    return {
        "image": _image(PROJECT),
        "storage": storage,
        "database": {"image": _image(POSTGRESQL), "size": "1Gi", "cpus": "250m", "memory": "256Mi"},
        "mlflow": {"numWorkers": 1, "cpus": "500m", "memory": "1536Mi"},
        "submitter": {"subjects": [{"kind": "User", "name": "developer", "apiGroup": "rbac.authorization.k8s.io"}]},
    }


DESK_FILE = Path(__file__).parents[2] / "docs" / "desk.yaml"


def desk(s3: S3) -> dict[str, Any]:
    """Return the documentation's pod for a shell, with an image that is not pulled."""
    pod: dict[str, Any] = yaml.safe_load(DESK_FILE.read_text())
    (container,) = pod["spec"]["containers"]
    container |= {"image": PROJECT, "imagePullPolicy": "Never"}
    if s3 is not None:
        container["env"] += [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": name}}} for name in s3
        ]
        for part, key in ((container, "volumeMounts"), (pod["spec"], "volumes")):
            part[key] = [entry for entry in part[key] if entry["name"] != "store"]
    return pod


def study_file(s3: S3) -> dict[str, Any]:
    """Return a study of two students over two generators, minutes on two cores, whose images are not imported yet."""
    tree = tiny_study()
    trial = tree["trial"] | {"log_every_images": 1000}
    trial["generation"] |= {"target_images": 60000}
    trial["distillation"] |= {"target_images": 4000}
    mounts = {"store": {"claim": f"{RELEASE}-store", "mount_path": MOUNT}} if s3 is None else {}
    keys = {name: {"secret": SECRET, "key": name} for name in s3 or ()}
    return tree | {
        "name": STUDY,
        "trial": trial,
        "resources": {"cpus_per_worker": 1},
        "study": {
            "num_students": 2,
            "students_per_generator": 1,
            "startup_students": 2,
            "concurrency": 2,
            "controls": {"real_only": True, "synthetic_only": False, "plain_kd": False},
        },
        "search": {"generation.smoothing.temperature": {"type": "float", "low": 0.5, "high": 4}},
        "storage": {
            "store": store_of(s3),
            "results": f"{MOUNT if s3 is None else WORK_FOLDER}/results",
            "ledger": f"postgresql://hidfd:${{DB_PASSWORD}}@{RELEASE}-database:5432/hidfd",
            "tracking": f"http://{RELEASE}-mlflow:5000",
        },
        "cluster": {
            "namespace": NAMESPACE,
            "image": PROJECT,
            "image_pull_policy": "Never",
            "driver": {"cpus": 1, "memory": "3Gi"},
            "workers": {"cpu": {"count": 2, "cpus": 1, "memory": "3Gi"}},
            "driver_service_account": f"{RELEASE}-driver",
            "worker_service_account": f"{RELEASE}-worker",
            "drain_seconds": 10,
            "secrets": {"DB_PASSWORD": {"secret": f"{RELEASE}-database", "key": "password"}, **keys},
            "volumes": mounts,
        },
    }


def lay_out(folder: Path, charts: Path, s3: S3) -> None:
    """Fill an empty folder: `values.yaml`, `desk.yaml`, `material/` with a study file and its images, `charts`."""
    tiny_workplace(folder / "material")
    (folder / "material/study.yaml").write_text(yaml.safe_dump(study_file(s3), sort_keys=False))
    (folder / "values.yaml").write_text(yaml.safe_dump(values(s3), sort_keys=False))
    (folder / "desk.yaml").write_text(yaml.safe_dump(desk(s3), sort_keys=False))
    (folder / "charts").symlink_to(charts)
    if s3 is not None:
        (folder / SECRET_FILE).write_text("".join(f"{name}={value}\n" for name, value in s3.items()))


def name_imported(folder: Path, imported: dict[str, str], s3: S3) -> None:
    """Write `study.yaml`, which names the images by what `hidfd import` printed: `data.candidates` -> sha256."""
    tree = study_file(s3)
    for where, sha256 in imported.items():
        section, name = where.split(".")
        tree["trial"][section][name] = {"sha256": sha256}
    (folder / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
