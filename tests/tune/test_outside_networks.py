"""Studies over networks from elsewhere: what a plan says of them, and that the store tells every later process."""

from pathlib import Path
from typing import Any

import pytest

from hidfd.pipeline import network_sizes
from hidfd.pipeline.network_sizes import unknown_networks
from tests.integration.conftest import Workplace, tiny_study, tiny_workplace
from tune.opened_study import open_last_run, open_study
from tune.planner.forecast import forecast_of
from tune.terminal.tables import forecast_lines, forecast_table

CHOICES = ["torchvision:shufflenet_v2_x0_5", "timm:test_resnet"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A study that searches over students of torchvision and timm, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(network_sizes, "_known", {})
    place = tiny_workplace(tmp_path)
    place.write(searching())
    return place


def searching() -> dict[str, Any]:
    """Return a study file with a search over the student's network."""
    study = tiny_study() | {
        "study": {"num_students": 2, "concurrency": 1, "seeds": [1001]},
        "search": {"distillation.architecture": {"type": "categorical", "choices": CHOICES}},
    }
    study["trial"]["distillation"].pop("width")
    study["trial"]["distillation"]["architecture"] = CHOICES[0]
    return study


def unknown() -> list[str]:
    """What this process does not know of the study's networks, after it has forgotten what it learnt before."""
    network_sizes._known.clear()
    definition = open_study("study.yaml").definition
    return [name for trial in definition.trials_of_networks for name in unknown_networks(trial)]


def test_a_plan_names_what_is_not_known_until_a_run_has_built_it(place: Workplace) -> None:
    assert set(unknown()) == set(CHOICES)
    study = open_study("study.yaml")
    forecast = forecast_of(study.state(), study.store)
    table = str(forecast_table(forecast)._rows)
    assert "not known" in table
    [line] = [line for line in forecast_lines(forecast, study.definition) if line.startswith("not known")]
    assert all(name in line for name in CHOICES)
    open_study("study.yaml", writes=True)
    assert unknown() == []


def test_a_study_that_is_opened_from_its_ledger_knows_its_networks(place: Workplace) -> None:
    done = place.run("tune", "run", "study.yaml", "--engine", "local")
    assert done.returncode == 0, done.stderr
    place.write(searching() | {"search": {}})  # another study than that of the ledger
    network_sizes._known.clear()
    definition = open_last_run("study.yaml").definition
    assert not any(map(unknown_networks, definition.trials_of_networks))
