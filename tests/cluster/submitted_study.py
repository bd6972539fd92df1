"""A tiny study on a user's laptop, for a cluster of `local_cluster`, and `python -m k8s` over it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import k8s.manifest
from hidfd.__main__ import main as hidfd_main
from k8s.__main__ import main
from tests.cluster.local_cluster import LocalCluster, restrict
from tests.integration.conftest import Workplace, tiny_study, tiny_workplace
from tests.integration.s3 import S3Server

CLAIM = "data"

ENDS_SECONDS = 420.0
"""Longest time of a study of this size, which takes a minute on two idle cores and more for every new Ray cluster."""


@dataclass(frozen=True)
class Answer:
    """The exit code and the output of a command."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class SubmittedStudy:
    """A folder with `study.yaml`, and a namespace for it.

    Attributes:
        cluster, namespace: where the study runs.
        folder: folder of the user.
        data: folder with the contents of its claim: ledger, store and MLflow's database.
    """

    cluster: LocalCluster
    namespace: str
    folder: Path
    data: Path

    def run(self, *words: str, user: str = "admin", kubeconfig: Path | None = None) -> Answer:
        """Run a verb of `python -m k8s` over the study file in this process, with paths of this machine's mounts."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setenv("KUBECONFIG", str(kubeconfig or self.cluster.kubeconfig(user)))
            patch.setattr(k8s.manifest, "STUDY_FOLDER", str(self.cluster.mounts / self.namespace / "study"))
            patch.setattr(k8s.manifest, "WORK_FOLDER", str(self.cluster.mounts / self.namespace / "work"))
            code = main([words[0], "study.yaml", *words[1:]])
        return Answer(code, out.getvalue(), err.getvalue())

    def watch(self, *words: str) -> subprocess.Popen[str]:
        """Start `python -m k8s watch --json` as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "k8s", "watch", "study.yaml", "--json", *words],
            cwd=self.folder,
            env=os.environ | {"KUBECONFIG": str(self.cluster.kubeconfig())},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def job(self) -> dict[str, Any]:
        """Return its RayJob."""
        (found,) = self.cluster.request("GET", f"/apis/ray.io/v1/namespaces/{self.namespace}/rayjobs")["items"]
        return dict(found)

    def patch_job(self, spec: dict[str, Any]) -> None:
        """Change its RayJob."""
        path = f"/apis/ray.io/v1/namespaces/{self.namespace}/rayjobs/{self.job()['metadata']['name']}"
        self.cluster.request("PATCH", path, {"spec": spec}, content="application/merge-patch+json")

    def pods(self) -> list[dict[str, Any]]:
        """Return all pods of the namespace."""
        return list(self.cluster.request("GET", f"/api/v1/namespaces/{self.namespace}/pods")["items"])

    def everything(self) -> str:
        """Return all objects of the namespace except Secrets, as text."""
        kinds = [f"/apis/ray.io/v1/namespaces/{self.namespace}/{kind}" for kind in ("rayjobs", "rayclusters")]
        kinds += [f"/api/v1/namespaces/{self.namespace}/{kind}" for kind in ("pods", "configmaps", "events")]
        kinds.append(f"/apis/batch/v1/namespaces/{self.namespace}/jobs")
        found = {kind: self.cluster.request("GET", kind)["items"] for kind in kinds}
        assert all(found.values()), {kind: len(items) for kind, items in found.items()}
        return json.dumps(found)

    def driver(self) -> int | None:
        """Return the process id of `tune run`; None where it does not run."""
        needle = f"tune run {self.cluster.mounts / self.namespace}/study/study.yaml"
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if entry.name.isdigit() and words[1:2] == ["-m"] and needle in " ".join(words):
                    return int(entry.name)
        return None

    def status(self) -> dict[str, Any]:
        """Return what `tune status --json` prints over the ledger in its claim."""
        words = [f"storage.ledger={self.data}/ledger.db", f"storage.store={self.data}/store"]
        done = Workplace(self.folder).run("tune", "status", "study.yaml", "--json", *words)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def submitted_study(
    cluster: LocalCluster, namespace: str, folder: Path, s3: S3Server | None = None, **sections: dict[str, Any]
) -> SubmittedStudy:
    """Make a study in a `restricted` namespace, with its material imported into its store as in docs/kubernetes.md.

    Args:
        s3: server of the store, with keys from a Secret; the results are then in the pods. None: both are in a claim.
        sections: sections of the study file, over those of a tiny study.
    """
    restrict(cluster, namespace)
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    manifest = {"metadata": {"name": CLAIM}, "spec": claim}
    cluster.request("POST", f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", manifest)
    data, mount = cluster.claim_folder(namespace, CLAIM), cluster.mounts / namespace / CLAIM
    data.mkdir(parents=True, exist_ok=True)
    tiny_workplace(folder)
    places = {"store": f"{mount}/store", "ledger": f"{mount}/ledger.db", "results": f"{mount}/results"}
    tree = tiny_study() | {
        "storage": {**places, "tracking": f"sqlite:///{mount}/mlflow.db"},
        "resources": {"cpus_per_worker": 1},
        "search": {"distillation.inflation": {"type": "float", "low": 1, "high": 10}},
        "cluster": {
            "namespace": namespace,
            "image": "hidfd@sha256:" + "0" * 64,
            "driver": {"cpus": 1, "memory": "2Gi"},
            "workers": {"cpu": {"count": 1, "cpus": 1, "memory": "2Gi"}},
            "drain_seconds": 0,
            "retries": 2,
            "volumes": {CLAIM: {"claim": CLAIM, "mount_path": str(mount)}},
        },
    }
    tree |= sections
    store, environment = str(data / "store"), {}
    if s3 is not None:
        store, environment = "s3://artifacts/team", s3.environment
        tree["storage"] |= {"store": store, "results": str(cluster.mounts / namespace / "work" / "results")}
        secret = {"metadata": {"name": "s3"}, "stringData": environment}
        cluster.request("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
        tree["cluster"]["secrets"] = {name: {"secret": "s3", "key": name} for name in environment}
    tree["trial"] = tree["trial"] | _imported(folder, tree, store, environment)
    (folder / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return SubmittedStudy(cluster, namespace, folder, data)


def two_generators(
    cluster: LocalCluster,
    namespace: str,
    folder: Path,
    *,
    generation_images: int = 24,
    s3: S3Server | None = None,
    **changes: Any,
) -> SubmittedStudy:
    """Make a study of two students over two generators, then the best one beside real images alone.

    Args:
        generation_images: target images of each generator.
        s3: see `submitted_study`.
        changes: settings of `cluster:`.
    """
    controls = {"real_only": True, "synthetic_only": False, "plain_kd": False}
    asked = {
        "sampler": "tpe",
        "num_students": 2,
        "students_per_generator": 1,
        "startup_students": 2,
        "pruner": {"kind": "none"},  # of two that train side by side, the load decides which one is held against which
        "controls": controls,
    }
    search = {"generation.smoothing.temperature": {"type": "float", "low": 0.5, "high": 4}}
    study = submitted_study(cluster, namespace, folder, s3, study=asked | {"concurrency": 2}, search=search)
    tree = yaml.safe_load((folder / "study.yaml").read_text())
    tree["trial"]["generation"]["target_images"] = generation_images
    tree["cluster"] |= changes
    (folder / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return study


def views_of(watch: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Return the output of a watcher that has ended."""
    out, err = watch.communicate(timeout=ENDS_SECONDS)
    assert watch.returncode == 0, out + err
    return [json.loads(line) for line in out.splitlines()]


def uninterrupted(study: SubmittedStudy, folder: Path) -> dict[str, Any]:
    """Run the study on this machine without a cluster; to be called before it is submitted, over an empty store."""
    shutil.copytree(study.data / "store", folder / "store")
    shutil.copy(study.folder / "study.yaml", folder)
    places = {"store": "store", "ledger": "ledger.db", "results": "results", "tracking": "sqlite:///mlflow.db"}
    overrides = [f"storage.{name}={place}" for name, place in places.items()]
    alone = Workplace(folder)
    done = alone.run("tune", "run", "study.yaml", "--engine", "local", *overrides)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(alone.run("tune", "status", "study.yaml", "--json", *overrides).stdout)
    return found


def found_by(document: dict[str, Any]) -> dict[str, Any]:
    """Return the results of a study, without times, attempts and places."""
    return {
        "trials": [(trial["params"], trial["state"], trial["value"]) for trial in document["trials"]],
        "works": {task["label"]: (task["key"], task["state"], task["metrics"]) for task in document["works"]},
        "verdict": document["verdict"],
    }


def _imported(folder: Path, tree: dict[str, Any], store: str, environment: dict[str, str]) -> dict[str, Any]:
    """Return the sections of `trial:` that name material, with the sha256 that `hidfd import` prints."""
    (folder / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        assert hidfd_main(["import", "study.yaml", "--store", store, "--json"]) == 0
    changed = {name: dict(tree["trial"][name]) for name in ("data", "teacher")}
    for where, sha256 in json.loads(out.getvalue()).items():
        section, name = where.split(".")
        changed[section][name] = {"sha256": sha256}
    return changed
