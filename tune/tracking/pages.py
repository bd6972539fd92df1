"""Addresses of MLflow's pages, and the view in which a study's runs are opened.

A view is what MLflow's own *Share* button stores: a tag of the experiment, named by the address. A version of MLflow
that does not know it opens the plain page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tune.study.snapshot import StudySnapshot
from tune.tracking.connection import KEY_TAG, connect, is_new

VIEW = "hidfd"
"""Name of the view, in its tag and in its address."""

VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"

KIND = "workflowType=machine_learning"
"""Makes MLflow show its pages for training, not those for language models, which it shows first as it is."""

TAGS, METRICS = ("role", "hidfd.state", "generator"), ("agreement", "validation_accuracy")


def view_of(snapshot: StudySnapshot) -> str:
    """Return the view of a study's runs as MLflow keeps it: flat, the best value of the objective first.

    Its columns are agreement, validation accuracy and the objective, role, state and generator, and what is searched.
    """
    metrics = dict.fromkeys([snapshot.objective, *METRICS])
    columns = [f"metrics.`{name}`" for name in metrics]
    columns += [f"tags.`{name}`" for name in TAGS]
    columns += [f"params.`{path}`" for path in snapshot.searched]
    return json.dumps(
        {"orderByKey": f"metrics.`{snapshot.objective}`", "orderByAsc": False, "selectedColumns": columns}
    )


def page_of_view(experiment: str) -> str:
    """Return the address of an experiment's runs in the view, below that of the server."""
    return f"#/experiments/{experiment}/runs?{KIND}&viewStateShareKey={VIEW}"


def page_of_run(experiment: str, run: str) -> str:
    """Return the address of a run's page, below that of the server."""
    return f"{_run(experiment, run)}?{KIND}"


@dataclass(frozen=True)
class Pages:
    """Addresses of a study's pages, below that of the server.

    Attributes:
        view: all runs, in the study's view.
        champion: the champion's run; None where there is none yet.
    """

    view: str
    champion: str | None


def pages_of(uri: str, study_name: str, champion: str | None) -> Pages | None:
    """Return the addresses of a study's pages; None where MLflow has nothing of it yet.

    Args:
        uri: MLflow tracking URI.
        study_name: names the experiment.
        champion: key of the champion's task; None where there is none yet.
    """
    if is_new(uri):
        return None
    client = connect(uri)
    experiment = client.get_experiment_by_name(study_name)
    if experiment is None:
        return None
    name, run = experiment.experiment_id, None
    if champion is not None:
        found = client.search_runs([name], f"tags.`{KEY_TAG}` = '{champion}'", max_results=1)
        run = page_of_run(name, found[0].info.run_id) if found else None
    return Pages(page_of_view(name), run)


def page_of_artifact(experiment: str, run: str, path: str) -> str:
    """Return the address of a file of a run, below that of the server."""
    return f"{_run(experiment, run)}/artifacts/{path}?{KIND}"


def links_of(experiment: str, study: str, champion: str | None, *, has_report: bool) -> list[tuple[str, str]]:
    """Return the words and addresses of the links in a study's description.

    Args:
        experiment: id of it.
        study: id of the study's own run.
        champion: id of the champion's run; None where there is none yet.
        has_report: whether the study's pages are among its artifacts.
    """
    links = [("All runs, best first", page_of_view(experiment)), ("The study", page_of_run(experiment, study))]
    if champion is not None:
        links.append(("Champion", page_of_run(experiment, champion)))
        links.append(("Its samples", page_of_artifact(experiment, champion, "pictures/samples.png")))
    if has_report:
        links.append(("Report", page_of_artifact(experiment, study, "report.html")))
        links.append(("Figures", page_of_artifact(experiment, study, "figures.html")))
    return links


def _run(experiment: str, run: str) -> str:
    return f"#/experiments/{experiment}/runs/{run}"
