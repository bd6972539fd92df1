"""Study files and overrides with random mistakes end in a plan or in one message, write nothing and never hang.

Each seed is printed, and `HIDFD_FUZZ_SEED=SEED` begins with that one; a failure shows the smallest file that fails.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.integration.conftest import Workplace, tiny_study, tiny_workplace

SEEDS, ROUNDS = 16, 25
"""Numbers of seeds, and of study files that are drawn with each."""

MAX_SECONDS = 18.0
"""Seconds after which no further seed begins, for machines on which all of them would take too long."""

HANGS_AFTER_SECONDS = 30
"""Seconds after which a command counts as hanging; the slowest takes half a second."""

ERROR = re.compile(r"^(python -m \w+( \w+)?: )?error: ", re.MULTILINE)
"""The begin of a line that says an error; argparse puts the command before it."""

COMMANDS = (
    ("hidfd", "run", "--dry-run"),
    ("hidfd", "stages"),
    ("tune", "check"),
    ("tune", "plan"),
    ("tune", "plan", "--json"),
    ("tune", "status"),
)
"""What only reads a study file; `FILE` and overrides follow the verb."""

SEARCH = {
    "distillation.inflation": {"type": "float", "low": 1, "high": 20, "log": True},
    "distillation.architecture": {"type": "categorical", "choices": ["resnet8", "resnet14"]},
    "generation.target_images": {"type": "int", "low": 24, "high": 240, "step": 8},
    "generation.smoothing.mode": {"type": "categorical", "choices": ["off", "inverse"]},
    "generation.smoothing.temperature": {
        "type": "float",
        "low": 0.5,
        "high": 4.0,
        "step": 0.5,
        "when": {"generation.smoothing.mode": "inverse"},
    },
}

STUDY = {
    "objective": "agreement",
    "further_objectives": {"deployed_parameters": "minimise"},
    "constraints": {"agreement": {"min": 0.5}},
    "num_students": 8,
    "startup_students": 4,
    "points": [{"distillation.inflation": 2.0}],
    "budget": {"cpu_hours": 2, "money": 3.0, "price_per_cpu_hour": 0.1},
    "pruner": {"kind": "asha", "first_rung_fraction": 0.5, "reduction_factor": 3},
    "variants": {"real-only": {"synthesis.num_images": 0}},
    "seeds": [1001],
}

# fmt: off
ODD = (
    None, True, False, 0, 1, -1, 2, 3, 2**31, 2**53, 10**18 - 1, 1 - 10**18, 10**400, 0.0, -0.0, 1e-320, 1e308, -1e308,
    float("inf"), float("nan"), "", " ", "off", "no", "x" * 3000, "grün", "\U0001d518", "\u202e", "\x1b[2J", "\ud800",
    "1_0", "0x1F", "1e3", "a.b", "a=b", "${HOME}", "${NO_SUCH_VARIABLE}", "${", "~no-such-user/x", "../..", ".",
    "photos", "photos/000.png", "/dev/null", "/proc/self/mem", "study.yaml", "photos/*.png", "[", "*", "a\0b",
    "nowhere", "n" * 300, "resnet50", "grid", "random", "stage-aware", "validation_accuracy", "http://localhost:1",
    "ftp://x/y", "postgresql://[", "postgresql://", "mysql://u:p@h/d", "sqlite:///", "sqlite:///photos/x.db",
    "s3://", "\udcff", [], [None], {}, {"": ""}, {"path": None}, {"path": "photos", "sha256": "f" * 64}, [[[]]],
    {"a": {"b": {"c": []}}}, ["photos"] * 300,
)
FRAGMENTS = (
    "\t", "\0", "\r", "\n", "\ufeff", "\u2028", "- ", "? ", ": ", "# ", "&a ", "*a", "&a [*a]", "<<: *a\n", "<<: 3\n",
    "!!binary ", "!!int ", "!!bool ", "!!python/object/apply:os.abort []", "!x ", "!<> ", "---\n", "...\n", "{", "[",
    "}", "]", "%YAML 9.9\n", "%TAG ! x\n", "'", '"', "|\n", ">9\n", "@", "`", "[" * 2000, "{a: " * 2000, "- " * 2000,
    "\\", "é", ".nan", ".inf", "9" * 6000, "1e999",
)
# fmt: on

WORDS = (
    *(
        "float",
        "int",
        "categorical",
        "fresh_seed",
        "grid",
        "random",
        "tpe",
        "stage-aware",
        "none",
        "asha",
        "off",
        "own",
    ),
    *(
        "agreement",
        "validation_accuracy",
        "resnet14",
        "wrn-16-2",
        "light",
        "residual",
        "paper",
        "quick",
        "bf16",
        "never",
    ),
)
"""Choices of settings."""

ODD_TEXT = tuple(value for value in ODD if isinstance(value, str))


@st.composite
def mistaken(draw: st.DrawFn, bases: tuple[dict[str, Any], ...]) -> tuple[bytes, list[str], tuple[str, ...]]:
    """Return the content of a study file, overrides and a command."""
    tree = _copy(draw(st.sampled_from(bases)))
    kinds = draw(st.sampled_from(("values", "values", "values", "text", "overrides", "overrides", "all")))
    for _ in range(draw(st.integers(1, 2)) if kinds in ("values", "all") else 0):
        _mistake(draw, tree)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=draw(st.booleans()), width=100)
    content = _misspelt(draw, text) if kinds in ("text", "all") else text.encode("utf-8", "surrogatepass")
    overrides = draw(st.lists(_overrides(draw, tree), min_size=1, max_size=2)) if kinds in ("overrides", "all") else []
    return content, overrides, draw(st.sampled_from(COMMANDS))


def _misspelt(draw: st.DrawFn, text: str) -> bytes:
    """Return the text of a study file with mistakes that make other YAML of it, or none at all."""
    for _ in range(draw(st.integers(0, 2))):
        text = _slip(draw, text)
    if draw(st.integers(0, 7)) == 0:
        text = _bomb(draw(st.integers(2, 30)), draw(st.sampled_from(("[{}]", "{{<<: [{}]}}")))) + text
    encoding = draw(st.sampled_from(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "latin-1")))
    content = text.encode(encoding, "surrogatepass" if "utf" in encoding else "replace")
    return (
        content[: draw(st.integers(0, len(content)))] + draw(st.binary(max_size=20))
        if encoding == "utf-16"
        else content
    )


def _values() -> st.SearchStrategy[Any]:
    leaves = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=20)
    nested = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    )
    return leaves | nested


def _mistake(draw: st.DrawFn, tree: dict[str, Any]) -> None:
    """Replace, remove, add, rename or move a value somewhere in a study file."""
    *above, last = draw(st.sampled_from(list(_places(tree))))
    section: Any = tree
    for key in above:
        section = section[key]
    match draw(st.sampled_from((*("nudge",) * 6, "replace", "replace", "remove", "add", "rename", "move", "wrap"))):
        case "nudge":
            section[last] = _nudged(draw, section[last])
        case "replace":
            section[last] = draw(_values())
        case "remove":
            del section[last]
        case "add" if isinstance(section, dict):
            key = draw(st.text(max_size=10) | st.sampled_from(("preset", "width", "path", "when", "search")))
            section[key] = draw(_values())
        case "rename" if isinstance(section, dict):
            section[f"{last}{draw(st.sampled_from('s_.'))}"] = section.pop(last)
        case "move":
            tree[draw(st.sampled_from((*tree, "storage", "resources", "cluster")))] = _copy(section[last])
        case _:
            section[last] = [section[last]]


def _nudged(draw: st.DrawFn, value: Any) -> Any:
    """Return another value of the same kind, which is often allowed."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return draw(
            st.sampled_from((value * 2, value * 1000, value * 10**9, value / 2, -value, value + 1, value - 1, 0))
        )
    if isinstance(value, str):
        return draw(st.sampled_from(WORDS))
    if isinstance(value, list):
        return value[1:] if draw(st.booleans()) else value * draw(st.sampled_from((2, 500)))
    return dict(list(value.items())[1:]) if isinstance(value, dict) else 1


def _slip(draw: st.DrawFn, text: str) -> str:
    """Make a slip of the pen: a fragment that does not belong, or a line twice, or lost, or one further in."""
    lines = text.splitlines(keepends=True) or [""]
    number = draw(st.integers(0, len(lines) - 1))
    match draw(st.sampled_from(("insert", "insert", "insert", "twice", "lost", "indent", "cut"))):
        case "insert":
            column = draw(st.integers(0, len(lines[number])))
            lines[number] = lines[number][:column] + draw(st.sampled_from(FRAGMENTS)) + lines[number][column:]
        case "twice":
            lines.insert(number, lines[number])
        case "lost":
            del lines[number]
        case "indent":
            lines[number] = draw(st.sampled_from((" ", "    ", "\t"))) + lines[number]
        case _:
            lines = lines[:number]
    return "".join(lines)


def _bomb(levels: int, form: str) -> str:
    """Return aliases of aliases that stand for 9 to the power of `levels` values."""
    lines = ["x0: &x0 {a: 1}"]
    lines += [f"x{n}: &x{n} {form.format(', '.join([f'*x{n - 1}'] * 9))}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def _overrides(draw: st.DrawFn, tree: dict[str, Any]) -> st.SearchStrategy[str]:
    keys = [".".join(map(str, place)) for place in _places(tree)]
    known = st.sampled_from(keys) if keys else st.nothing()
    near = st.builds(lambda key, more: key + more, known, st.sampled_from((".x", "s", ".", "..", "[0]", ".0", ".path")))
    long = st.sampled_from(("trial." + "a." * 3000 + "b", "x" * 5000, "", ".", "search..", "study.variants.a.b.c.d"))
    values = _values().map(_as_yaml) | st.sampled_from((*ODD_TEXT, *FRAGMENTS)) | st.text(max_size=20)
    pairs = st.builds(lambda key, value: f"{key}={value}", known | near | long | st.text(max_size=12), values)
    return (pairs | st.text(max_size=12)).map(lambda word: word.replace("\0", "").encode("utf-8", "replace").decode())


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


def _places(values: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys of every value, sections and lists included."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from _places(value, (*above, key))


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _study_files(paths: dict[str, str]) -> tuple[dict[str, Any], ...]:
    """Return the published study files over the material of a tiny one, and that one with all kinds of settings."""
    whole = tiny_study() | {"resources": {"num_workers": 1, "cpus_per_worker": 1}, "study": STUDY, "search": SEARCH}
    whole["storage"] = {"store": "store", "ledger": "ledger.db", "results": "results", "tracking": "sqlite:///m.db"}
    files = [whole]
    for path in sorted(Path("studies").glob("*.yaml")):
        tree = yaml.safe_load(path.read_text())
        for *above, last in list(_places(tree)):
            if last == "path":
                section = tree
                for key in above:
                    section = section[key]
                section["path"] = paths.get(str(above[-1]), "held")
        files.append(tree)
    return tuple(files)


def _files_below(folder: Path) -> dict[str, tuple[int, int]]:
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(path): (status.st_mtime_ns, status.st_size) for path, status in found if path.name != "study.yaml"}


@pytest.mark.slow
def test_study_file_with_random_mistakes_is_planned_or_refused_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    place = tiny_workplace(tmp_path / "work")
    file = place.folder / "study.yaml"
    before = _files_below(tmp_path)
    first, ends = int(os.environ.get("HIDFD_FUZZ_SEED", "0")), time.monotonic() + MAX_SECONDS
    codes: Counter[int] = Counter()
    files = _study_files({"candidates": "photos", "checkpoint": "teacher.safetensors"})

    def is_planned_or_refused(mistake: tuple[bytes, list[str], tuple[str, ...]]) -> None:
        content, overrides, (package, verb, *options) = mistake
        file.write_bytes(content)
        codes[_run(place, package, verb, "study.yaml", *options, *overrides)] += 1
        assert _files_below(tmp_path) == before

    drawn = settings(max_examples=ROUNDS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    for seed in range(first, first + SEEDS):
        if time.monotonic() > ends:
            break
        fuzz = drawn(hypothesis.given(mistaken(files))(is_planned_or_refused))
        try:
            hypothesis.seed(seed)(fuzz)()
        except BaseException as error:
            error.add_note(f"study files, HIDFD_FUZZ_SEED={seed}")
            raise
    with capsys.disabled():
        print(f"\nstudy files: seeds {first} to {seed}, exit codes {dict(sorted(codes.items()))}")
    assert codes[0] > 0
    assert codes[2] > 0


def _run(place: Workplace, *words: str) -> int:
    """Run a command and check what it said; return its exit code."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"{words} takes more than {HANGS_AFTER_SECONDS} s")

    handler = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANGS_AFTER_SECONDS)
    try:
        outcome = place.run(*words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    said = outcome.stderr
    assert outcome.returncode in (0, 2, 3, 4, 7), said
    assert "Traceback" not in said
    if outcome.returncode:
        assert len(ERROR.findall(outcome.stdout + said)) == 1, said
        assert len(said) < 20_000, said[:2000]
    else:
        assert outcome.stdout
    return outcome.returncode
