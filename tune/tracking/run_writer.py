"""The content of single runs in MLflow: settings, data sets, points, tags, pages and pictures."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tune.tracking.points import PointWriter, Series

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from tune.tracking.run_content import DataSet

SAMPLES = "samples.png"
"""The newest sample grid among the pictures of a run."""

BATCH_PARAMS = 100
"""Parameters that MLflow takes in one call at most."""

ROLE_TAG = "mlflow.data.context"
"""Tag of a data set: the role that it has in its run."""


class RunWriter:
    """The writer of a study's runs.

    Args:
        client: of MLflow.
        known: runs as MLflow has them; every other one is taken to be new and empty.
    """

    def __init__(self, client: MlflowClient, known: Iterable[Run]) -> None:
        known = list(known)
        self._client = client
        self._settings = {run.info.run_id: set(run.data.params) for run in known}
        self._with_data = {run.info.run_id for run in known if run.inputs and run.inputs.dataset_inputs}
        self._points = PointWriter(client, {run.info.run_id: run.data.metrics for run in known})
        self._pictures: dict[str, Path] = {}

    def settings(self, run: str, settings: Mapping[str, str]) -> None:
        """Log parameters; one that is there stays, since MLflow lets none be changed."""
        from mlflow.entities import Param

        known = self._settings.setdefault(run, set())
        new = [Param(path, value) for path, value in settings.items() if path not in known]
        for start in range(0, len(new), BATCH_PARAMS):
            self._client.log_batch(run, params=new[start : start + BATCH_PARAMS])
        known.update(settings)

    def data_sets(self, run: str, data_sets: Iterable[DataSet]) -> None:
        """Log the data sets that a run reads, once."""
        if run in self._with_data:
            return
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(Dataset(of.name, of.digest, of.source_type, of.source), [InputTag(ROLE_TAG, of.role)])
            for of in data_sets
        ]
        if inputs:
            self._client.log_inputs(run, datasets=inputs)
        self._with_data.add(run)

    def points(self, run: str, series: Series, *, updates: bool = False) -> None:
        """Write points of metrics, as `PointWriter.write` does."""
        self._points.write(run, series, updates=updates)

    def tags(self, run: str, tags: Mapping[str, str | None]) -> None:
        """Set tags in one call; a tag without a value is left as it is."""
        from mlflow.entities import RunTag

        self._client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items() if value])

    def drop_tag(self, run: str, name: str) -> None:
        """Delete a tag, if the run has it."""
        if name in self._client.get_run(run).data.tags:
            self._client.delete_tag(run, name)

    def samples(self, run: str, picture: Path) -> None:
        """Log a sample grid in the place of the one before, unless it is the same or is gone."""
        if self._pictures.get(run) == picture or not picture.is_file():
            return
        with tempfile.TemporaryDirectory() as folder:
            named = Path(folder) / SAMPLES
            shutil.copyfile(picture, named)
            self._client.log_artifact(run, str(named), "pictures")
        self._pictures[run] = picture

    def trial_folder(self, run: str, folder: Path) -> None:
        """Log the pages, the numbers and the pictures of a trial's folder."""
        for name in ("report.html", "config.yaml", "result.json"):
            if (folder / name).is_file():
                self._client.log_artifact(run, str(folder / name))
        for picture in sorted((folder / "samples").glob("*.png"))[-1:]:
            self.samples(run, picture)
        for picture in sorted((folder / "pictures").glob("*.png")):
            self._client.log_artifact(run, str(picture), "pictures")

    def study_folder(self, run: str, folder: Path) -> None:
        """Log the pages and the figures of a study's folder."""
        for page in (folder / "report.html", folder / "figures.html"):
            if page.is_file():
                self._client.log_artifact(run, str(page))
        for picture in sorted((folder / "figures").glob("*.png")):
            self._client.log_artifact(run, str(picture), "figures")

    def forget(self, run: str) -> None:
        """Free the memory of a run that has ended."""
        self._points.forget(run)
        self._pictures.pop(run, None)
