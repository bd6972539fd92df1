"""The chart as Helm renders it, in process and without a cluster."""

import functools
import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

from tests.charts.pod_security import kuberay_pods

CHART = Path(__file__).parents[2] / "charts" / "hidfd"

CASES = sorted(path.stem.removesuffix("-values") for path in (CHART / "ci").glob("*-values.yaml"))

RELEASE, NAMESPACE = "hidfd", "studies"

_LOOKUP = re.compile(r'lookup ("\S+" "\w+" \S+ [^\s()]+)')


@functools.cache
def chart() -> Chart:
    return Chart.load(CHART)


def values_of(case: str) -> dict[str, Any]:
    """Return a values file of ci/."""
    values: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{case}-values.yaml").read_text())
    return values


def render(values: dict[str, Any], release: str = RELEASE, of: Chart | None = None, **options: bool) -> dict[str, str]:
    """Return what Helm renders for the values, by template; NOTES.txt is among them."""
    return (of or chart()).render(values=values, name=release, namespace=NAMESPACE, **options)


def objects(values: dict[str, Any], release: str = RELEASE, of: Chart | None = None) -> list[dict[str, Any]]:
    """Return the objects for the values."""
    texts = (text for name, text in render(values, release, of).items() if name.endswith(".yaml"))
    return [item for text in texts for item in yaml.safe_load_all(text) if item]


@functools.cache
def case_objects(case: str) -> list[dict[str, Any]]:
    """Return the objects of a values file of ci/; not to be changed."""
    return objects(values_of(case))


def one(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """Return the object of a kind and a name."""
    (item,) = [item for item in found if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return item


def pods(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the templates of the objects' pods by kind and name; those of Ray as KubeRay makes them."""
    made = {}
    for item in found:
        name = f"{item['kind']}/{item['metadata']['name']}"
        match item["kind"]:
            case "Deployment" | "StatefulSet" | "Job":
                made[name] = item["spec"]["template"]
            case "Pod":
                made[name] = item
            case "RayCluster":
                made |= {f"{name}/{group}": pod for group, pod in kuberay_pods(item["spec"]).items()}
    return made


def chart_in_a_cluster(folder: Path, *there: dict[str, Any]) -> Chart:
    """Copy the chart with a `lookup` that finds these objects, as in a cluster that has them.

    Helm offers no way to say what `lookup` finds, so each call of it becomes one of a template that reads a file.
    """
    copy = folder / "hidfd"
    shutil.copytree(CHART, copy)
    for path in (copy / "templates").rglob("*"):
        if path.suffix in (".yaml", ".tpl"):
            path.write_text(_LOOKUP.sub(r'include "found" (list $ \1) | fromYaml', path.read_text()))
    (copy / "templates" / "_found.tpl").write_text(
        '{{- define "found" -}}'
        '{{ (index . 0).Files.Get (printf "there/%s/%s/%s" (index . 2) (index . 3) (index . 4)) }}'
        "{{- end }}"
    )
    for item in there:
        path = copy / "there" / item["kind"] / NAMESPACE / item["metadata"]["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(item))
    return Chart.load(copy)
