"""A plan, a schema and a study's state cost milliseconds: nothing that they need loads torch, Ray or MLflow."""

import subprocess
import sys

MODULES = (
    "hidfd.config.schema",
    "hidfd.pipeline.graph",
    "hidfd.config.study_file",
    "tune.planner.planner",
    "tune.driver",
)
HEAVY = ("torch", "ray", "mlflow")


def test_planning_loads_neither_torch_nor_ray_nor_mlflow() -> None:
    program = f"""
import importlib, sys
for module in {MODULES}:
    importlib.import_module(module)
    loaded = [heavy for heavy in {HEAVY} if heavy in sys.modules]
    assert not loaded, f"importing {{module}} loads {{loaded}}"
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
