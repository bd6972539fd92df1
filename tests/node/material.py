"""What the user of the story has at hand: values for the chart, a study file with its images, a pod to work in."""

from pathlib import Path
from typing import Any

import yaml

from tests.integration.conftest import tiny_study, tiny_workplace
from tests.node.images import POSTGRESQL, PROJECT

NAMESPACE, RELEASE, STUDY = "studies", "hidfd", "tiny"

STORE = "/mnt/hidfd"
"""Where the chart's claim is mounted, in MLflow's pod as in a study's."""


def _image(name: str) -> dict[str, str]:
    repository, tag = name.split(":")
    return {"repository": repository, "tag": tag, "pullPolicy": "Never"}


VALUES: dict[str, Any] = {
    "image": _image(PROJECT),
    "storage": {"claim": {"size": "5Gi"}},
    "database": {"image": _image(POSTGRESQL), "size": "1Gi", "cpus": "250m", "memory": "256Mi"},
    "mlflow": {"numWorkers": 1, "cpus": "500m", "memory": "1536Mi"},
    "submitter": {"subjects": [{"kind": "User", "name": "developer", "apiGroup": "rbac.authorization.k8s.io"}]},
}
"""Of the chart, for a small node whose images cannot be pulled. `developer` has no right but those."""

DESK_FILE = Path(__file__).parents[2] / "docs" / "desk.yaml"


def desk() -> dict[str, Any]:
    """The documentation's pod to work in, with an image that nobody pulls."""
    pod: dict[str, Any] = yaml.safe_load(DESK_FILE.read_text())
    (container,) = pod["spec"]["containers"]
    container |= {"image": PROJECT, "imagePullPolicy": "Never"}
    return pod


def study_file() -> dict[str, Any]:
    """Two students over two generators, some minutes on two cores; its images are not imported yet."""
    tree = tiny_study()
    trial = tree["trial"] | {"log_every_images": 1000}
    trial["generation"] |= {"target_images": 60000}
    trial["distillation"] |= {"target_images": 4000}
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
            "store": f"{STORE}/store",
            "results": f"{STORE}/results",
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
            "secrets": {"DB_PASSWORD": {"secret": f"{RELEASE}-database", "key": "password"}},
            "volumes": {"store": {"claim": f"{RELEASE}-store", "mount_path": STORE}},
        },
    }


def lay_out(folder: Path, charts: Path) -> None:
    """Fills an empty folder: `values.yaml`, `desk.yaml`, `material/` with a study file and its images, `charts`."""
    tiny_workplace(folder / "material")
    (folder / "material/study.yaml").write_text(yaml.safe_dump(study_file(), sort_keys=False))
    (folder / "values.yaml").write_text(yaml.safe_dump(VALUES, sort_keys=False))
    (folder / "desk.yaml").write_text(yaml.safe_dump(desk(), sort_keys=False))
    (folder / "charts").symlink_to(charts)


def name_imported(folder: Path, imported: dict[str, str]) -> None:
    """Writes `study.yaml`, which names the images by what `hidfd import` printed: `data.candidates` -> sha256."""
    tree = study_file()
    for where, sha256 in imported.items():
        section, name = where.split(".")
        tree["trial"][section][name] = {"sha256": sha256}
    (folder / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
