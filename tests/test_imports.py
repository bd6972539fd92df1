"""A plan, a schema, a study's state, a preflight and a worker load no library that they can do without."""

from __future__ import annotations

import pkgutil
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.k8s.study_files import tree
from tests.loading import loaded_by

LIGHT = (
    "hidfd.config.schema",
    "hidfd.pipeline.graph",
    "hidfd.config.study_file",
    "tune.planner.planner",
    "tune.driver",
)

DRIVER = ("optuna", "torch", "mlflow", "tune.planner", "tune.samplers", "tune.ledger")
"""Packages that only the driver of a study needs; a worker loads torch when it begins a task."""


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (LIGHT, ("torch", "ray", "mlflow", "scipy.stats")),
        (("tune.study.messages",), (*DRIVER, "ray", "pydantic")),
        (("tune.engines.worker",), (*DRIVER, "ray", "numpy", "pyarrow")),
        (("tune.engines.ray_worker",), DRIVER),
    ],
    ids=lambda names: names[-1],
)
def test_module_loads_no_package_that_it_can_do_without(modules: tuple[str, ...], unwanted: tuple[str, ...]) -> None:
    program = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
    loaded = [name for name in {unwanted} if name in sys.modules]
    assert not loaded, f"importing {{module}} loads {{loaded}}"
"""
    assert loaded_by(program, *unwanted) == set()


def test_definition_of_a_study_loads_no_library_of_engines_samplers_and_clusters(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tree()))
    check = f"from tune.study.check import check_study; check_study({str(path)!r})"
    assert loaded_by(check, "torch", "ray", "optuna", "mlflow", "kubernetes") == set()


def test_cluster_commands_load_no_library_of_studies_and_of_tune_nothing_before_a_study_file_is_checked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tree()))
    heavy = ("torch", "ray", "optuna", "mlflow")
    assert loaded_by("import k8s.__main__", *heavy, "tune") == set()
    check = (
        "import k8s.__main__\n"
        "from k8s.preflight.provisions import study_file\n"
        "from k8s.request import read_request\n"
        f"(found,) = study_file(read_request({str(path)!r}), None)\n"
        "assert found.status == 'pass', found"
    )
    assert loaded_by(check, *heavy, "tune.driver", "tune.planner", "tune.samplers") == set()


@pytest.mark.parametrize(
    "words", [("hidfd",), ("hidfd", "run"), ("tune",), ("tune", "run"), ("k8s",), ("k8s", "submit")]
)
def test_help_loads_no_library_of_figures_databases_or_training(words: tuple[str, ...]) -> None:
    program = (
        "import contextlib, io\n"
        f"from {words[0]}.__main__ import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main([*{words[1:]}, '--help'])"
    )
    assert loaded_by(program, "matplotlib", "psycopg", "torch", "torchvision", "ray", "mlflow") == set()


def test_contract_of_k8s_names_all_of_tune_but_the_definition_of_a_study() -> None:
    contracts = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["name"] == "Of tune k8s imports only tune.study")
    modules = {f"tune.{module.name}" for module in pkgutil.iter_modules(["tune"])}
    assert set(contract["forbidden_modules"]) == modules - {"tune.study"}
