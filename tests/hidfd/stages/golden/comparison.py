"""The golden files of this folder: `<stage>.json`, with the version of the stage and its numbers then."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hidfd.pipeline.graph import VERSIONS
from tests.hidfd.stages.golden.runs import Numbers

FOLDER = Path(__file__).parent

RELATIVE_TOLERANCE = 1e-6
"""Ten thousand times the largest difference seen between instruction sets; changed code differs by far more."""

ABSOLUTE_TOLERANCE = 1e-8


def complaint(stage: str, golden: dict[str, Any] | None, version: int, numbers: Numbers) -> str | None:
    """Return how the numbers differ from a golden file and what to do; None if they do not."""
    if golden is None or golden["version"] != version:
        found = "no golden file" if golden is None else f"a golden file of version {golden['version']}"
        return (
            f"{stage} has version {version} and {found}: "
            f"run `python -m tests.hidfd.stages.golden`, and commit what it wrote"
        )
    different = list(_differences(golden["numbers"], numbers, ""))
    if not different and has_more(golden, numbers):
        return (
            f"{stage} has more numbers than before: run `python -m tests.hidfd.stages.golden`, and commit what it wrote"
        )
    if different:
        return (
            f"numbers of {stage} changed: raise VERSIONS[{stage!r}] in hidfd/pipeline/graph.py "
            f"and run `python -m tests.hidfd.stages.golden`; "
            f"{len(different)} differ, among them {'; '.join(different[:3])}"
        )
    return None


def has_more(golden: dict[str, Any], numbers: Numbers) -> bool:
    """Return whether all numbers of a golden file are as they were, and there are others beside them.

    A further measure needs no higher version: it changes nothing of what is built from the artifact.
    """
    return not any(_differences(golden["numbers"], numbers, "")) and _count(numbers) > _count(golden["numbers"])


def read(stage: str) -> dict[str, Any] | None:
    path = FOLDER / f"{stage}.json"
    return json.loads(path.read_text()) if path.exists() else None


def write(stage: str, numbers: Numbers) -> None:
    golden = {"version": VERSIONS[stage], "numbers": _rounded(numbers)}
    (FOLDER / f"{stage}.json").write_text(json.dumps(golden, indent=1) + "\n")


def _differences(expected: Any, found: Any, where: str) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() <= found.keys():
        for name in expected:
            yield from _differences(expected[name], found[name], f"{where}.{name}" if where else name)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (a, b) in enumerate(zip(expected, found, strict=True)):
            yield from _differences(a, b, f"{where}[{number}]")
    elif isinstance(expected, float) and isinstance(found, float):
        if not math.isclose(expected, found, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE):
            yield f"{where} is {found}, was {expected}"
    elif expected != found:
        yield f"{where} is {found}, was {expected}"


def _count(numbers: Any) -> int:
    if isinstance(numbers, dict | list):
        return sum(_count(value) for value in (numbers.values() if isinstance(numbers, dict) else numbers))
    return 1


def _rounded(numbers: Any) -> Any:
    if isinstance(numbers, dict):
        return {name: _rounded(value) for name, value in numbers.items()}
    if isinstance(numbers, list):
        return [_rounded(value) for value in numbers]
    return float(f"{numbers:.10g}") if isinstance(numbers, float) else numbers
