"""A study on a real MLflow server, seen with a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.browsing import browser
from tests.integration.conftest import Workplace, tiny_study
from tests.tune.tracking.test_outage import Server

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


def test_person_comes_from_the_first_page_to_the_sample_grid_of_the_champion(tiny: Workplace, server: Server) -> None:
    tree = tiny_study()
    tree["storage"] = {"tracking": server.uri}
    tree["study"] = {"num_students": 2, "controls": {"plain_kd": False, "synthetic_only": False}}
    tree["search"] = {"distillation.inflation": {"type": "float", "low": 1, "high": 10}}
    tiny.write(tree)
    with browser() as window:
        done = tiny.run("tune", "run", "study.yaml", "--engine", "local")
        assert done.returncode == 0, done.stderr
        window.to_the_study(server.uri, "tiny")
        champion = window.to_its_champion()
        picture = window.to_the_samples()
        assert (picture.rect["width"], picture.rect["height"]) == (8 * 28, 3 * 28)
    best = json.loads(tiny.run("tune", "status", "study.yaml", "--json").stdout)["best"]
    assert champion == f"trial-{best}-seed1001"
