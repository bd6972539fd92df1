"""The commands of a platform engineer and a user, from an empty cluster to one that is empty again."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.node.material import NAMESPACE, RELEASE, S3, SECRET, SECRET_FILE, STUDY, name_imported, store_of
from tests.node.terminal import CommandFailedError, Terminal

INTO = f"-n {NAMESPACE}"

POLL_SECONDS = 2.0

LOAD = f"""\
import mlflow, sys, torch
student = mlflow.pytorch.load_model("models:/{STUDY}@champion")
print(type(student).__module__, student(torch.rand(2, 1, 28, 28)).shape)
print([name for name in sys.modules if name in ("hidfd", "tune", "k8s")])
"""
"""A program that loads the champion without this project's code."""

PICTURES = f"""\
import mlflow
client = mlflow.MlflowClient()
run = client.get_model_version_by_alias("{STUDY}", "champion").run_id
pictures = [file.path for file in client.list_artifacts(run, "pictures")]
print(pictures)
assert pictures
"""


def walk_through(terminal: Terminal, folder: Path, s3: S3) -> None:
    """Run all commands.

    Args:
        terminal: runs them.
        folder: folder of the user, see `lay_out`.
        s3: server of the store, see `material`.

    Raises:
        CommandFailedError: a command failed that should not.
    """
    install(terminal, s3)
    name_imported(folder, import_material(terminal, s3), s3)
    submit_and_disturb(terminal)
    fetch_champion(terminal)
    uninstall(terminal)


def install(terminal: Terminal, s3: S3) -> None:
    """Install the chart in a cluster that has KubeRay's operator."""
    terminal.say("An empty cluster with one node")
    terminal.run("kubectl get nodes -o wide")
    terminal.run("kubectl get crds")
    terminal.run(f"kubectl create namespace {NAMESPACE}")
    terminal.run(f"kubectl label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=restricted")
    if s3 is not None:
        terminal.run(f"kubectl create secret generic {SECRET} {INTO} --from-env-file={SECRET_FILE}")
    terminal.say("The chart: MLflow, PostgreSQL, the store, rights and network rules")
    terminal.run("cat values.yaml")
    terminal.run(f"helm install {RELEASE} charts/hidfd {INTO} -f values.yaml --wait --timeout 10m")
    terminal.run(f"kubectl get {INTO} pods,services,pvc,networkpolicies,poddisruptionbudgets")
    terminal.run(f"helm test {RELEASE} {INTO} --timeout 10m")


def open_desk(terminal: Terminal) -> None:
    """Start the pod that mounts the store."""
    terminal.run(f"kubectl apply {INTO} -f desk.yaml")
    terminal.run(f"kubectl wait {INTO} --for=condition=Ready pod/desk --timeout=5m")


def import_material(terminal: Terminal, s3: S3) -> dict[str, str]:
    """Import the study's images and teacher into the store; return `data.candidates` -> sha256 and so on."""
    terminal.say("The study's images and teacher, into the store")
    open_desk(terminal)
    terminal.run(f"kubectl cp {INTO} material desk:material")
    command = f"cd material && python -m hidfd import study.yaml --store {store_of(s3)} --json"
    printed = terminal.run(f"kubectl exec {INTO} desk -- bash -c '{command}'")
    found: dict[str, str] = json.loads(printed.splitlines()[-1])
    return found


def submit_and_disturb(terminal: Terminal) -> None:
    """Submit the study, and delete a pod that trains meanwhile."""
    terminal.say("The study, by somebody who may only submit")
    terminal.run("cat study.yaml")
    terminal.run("python -m k8s preflight study.yaml", user="developer")
    terminal.run("python -m k8s submit study.yaml", user="developer")
    with terminal.beside("python -m k8s watch study.yaml", user="developer"):
        _wait("a student that trains", lambda: "work_progress" in _driver_log(terminal))
        pods = f"kubectl get {INTO} pods -o wide"
        terminal.run(pods)
        workers = f"kubectl get {INTO} pods -l hidfd/part=worker -o name"
        worker = terminal.ask(workers).split()[0]
        terminal.say("A worker's pod is deleted while it trains")
        terminal.run(f"time kubectl delete {INTO} {worker}")
        terminal.run(pods)
    terminal.say("The study has ended")
    words = '"event": "(study_started|work_started|work_interrupted|work_ended|study_ended)"'
    terminal.run(
        f"kubectl logs {INTO} -l hidfd/part=submitter --tail=-1 | grep -E '{words}' | "
        "jq -c 'del(.metrics, .document, .study, .key)'"
    )
    terminal.run(f"kubectl get {INTO} rayjobs,pods")
    terminal.run("python -m k8s submit study.yaml", user="developer")


def fetch_champion(terminal: Terminal) -> None:
    """Promote the best student and load it with only torch and MLflow."""
    terminal.say("The champion, promoted and fetched without this project's code")
    terminal.run(f"kubectl cp {INTO} study.yaml desk:study.yaml")
    terminal.run(f"kubectl exec {INTO} desk -- python -m tune status study.yaml")
    terminal.run(f"kubectl exec {INTO} desk -- python -m tune promote study.yaml")
    server = f"MLFLOW_TRACKING_URI=http://{RELEASE}-mlflow:5000"
    variables = f"env -u PYTHONPATH {server} MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false"
    terminal.run(f"kubectl exec {INTO} desk -- {variables} python -W ignore -c '{LOAD}'")
    terminal.run(f"kubectl exec {INTO} desk -- {variables} python -W ignore -c '{PICTURES}'")


def uninstall(terminal: Terminal) -> None:
    """Delete the job, upgrade and delete the release, and install it again over what stays."""
    terminal.say("The job is deleted; what it found stays")
    terminal.run("python -m k8s delete study.yaml", user="developer")
    terminal.run(f"kubectl get {INTO} pods")
    terminal.say("An upgrade")
    changed = "-f values.yaml --set mlflow.numWorkers=2"
    terminal.run(f"helm upgrade {RELEASE} charts/hidfd {INTO} {changed} --wait --timeout 10m")
    terminal.run(f"helm history {RELEASE} {INTO}")
    terminal.run(f"helm test {RELEASE} {INTO} --timeout 10m")
    terminal.say("The release is deleted")
    terminal.run(f"kubectl delete {INTO} pod desk")
    terminal.run(f"helm uninstall {RELEASE} {INTO} --wait --timeout 5m")
    terminal.run(f"kubectl wait {INTO} --for=delete pod --all --timeout=3m")
    terminal.run(f"kubectl get {INTO} all,pvc,secrets,configmaps,networkpolicies,serviceaccounts,roles,rolebindings")
    terminal.say("Installed again, it finds everything: the study ends at once, with the same champion")
    terminal.run(f"helm install {RELEASE} charts/hidfd {INTO} -f values.yaml --wait --timeout 10m >/dev/null")
    terminal.run("python -m k8s submit study.yaml", user="developer")
    terminal.run("python -m k8s watch study.yaml", user="developer")
    terminal.run("python -m k8s delete study.yaml", user="developer")
    open_desk(terminal)
    terminal.run(f"kubectl cp {INTO} study.yaml desk:study.yaml")
    terminal.run(f"kubectl exec {INTO} desk -- python -m tune promote study.yaml")
    terminal.run(f"kubectl delete {INTO} pod desk")
    terminal.run(f"helm uninstall {RELEASE} {INTO} --wait --timeout 5m >/dev/null")
    terminal.run(f"kubectl delete namespace {NAMESPACE}")


def _driver_log(terminal: Terminal) -> str:
    return terminal.ask(f"kubectl logs {INTO} -l hidfd/part=submitter --tail=-1")


def _wait(what: str, reached: Callable[[], bool], seconds: float = 600.0) -> None:
    until = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > until:
            raise CommandFailedError(f"{what}: not within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
