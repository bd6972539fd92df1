"""The pages of a study and of a trial in a real browser: nothing is wider than the window, and the links lead on."""

from pathlib import Path

import pytest

from tests.integration.browsing import browser
from tests.integration.conftest import Workplace, tiny_study

pytestmark = pytest.mark.integration


def test_pages_fit_into_the_window_and_lead_to_each_other(tiny: Workplace) -> None:
    tree = tiny_study()
    tree["storage"] = {"results": "100 % of it?/the #results"}
    tree["study"] = {"num_students": 3, "startup_students": 2, "controls": {"plain_kd": False, "synthetic_only": False}}
    tree["search"] = {
        "distillation.inflation": {"type": "float", "low": 1, "high": 10, "log": True},
        "distillation.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
        "distillation.feature_weight": {"type": "float", "low": 1, "high": 1.5, "log": True},
    }
    tiny.write(tree)
    for package, options in (("tune", ["--engine", "local"]), ("hidfd", [])):
        done = tiny.run(package, "run", "study.yaml", *options)
        assert done.returncode == 0, done.stderr
    moved = Path(tiny.folder / tree["storage"]["results"]).rename(tiny.folder / "moved #2?")
    pages = sorted(moved.rglob("*.html"))
    assert len(pages) > 8
    with browser() as window:
        for width in (1280, 800):
            assert {page: window.overflow_of(page, width) for page in pages} == dict.fromkeys(pages, 0)
        study = moved / "tiny" / "report.html"
        window.overflow_of(study, 1280)
        assert window.top_of(".handover") < 300 < window.top_of("table")
        assert window.follow("Figures of the search") == moved / "tiny" / "figures.html"
        assert window.follow("1") == moved / "tiny" / "trial-1" / "report.html"
        assert window.follow("Study tiny") == study
        assert window.follow("All results") == moved / "index.html"
        assert window.follow("tiny") == study
