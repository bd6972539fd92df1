"""The script that measures a GPU, every line of it tried on a CPU; its record and its parts."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import compiled, gpu_tests, machine, rates, recipe, together, workers
from benchmarks.gpu.images import cut
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import FULL, TINY
from hidfd.distributed.device import Device
from hidfd.errors import HidfdError
from tests.benchmarks.parquet import write_images

ROOT = Path(__file__).parents[2]

PROVIDED = {"torch", "torchvision", "numpy", "pyarrow", "pillow", "pyyaml", "rich", "safetensors", "pytest"}
"""Packages of a usual image with torch."""
COMES_ALONG = {"pydantic", "jinja2"}
"""What `make gpu-carry` brings along, and what torch itself needs."""
IMPORT_NAMES = {"scikit-learn": "sklearn", "pytest-xdist": "xdist", "import-linter": "importlinter"}


def lacking() -> set[str]:
    """Return the import names of all packages of this project that a bare machine does not have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    names = {re.match(r"[a-z0-9-]+", requirement)[0] for requirement in requirements}  # type: ignore[index]
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names - PROVIDED - COMES_ALONG}


def bare_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which no Python process finds what a bare machine lacks."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Bare(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        if name.split('.')[0] not in {sorted(lacking())!r}:\n"
        "            return super().find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Bare\n"
    )
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def test_a_bare_machine_lacks_ray_optuna_mlflow_and_matplotlib() -> None:
    assert {"ray", "optuna", "mlflow", "kubernetes", "matplotlib", "scipy", "xdist"} <= lacking()


@pytest.mark.slow
def test_every_line_runs_on_a_cpu_with_the_packages_of_a_bare_machine(tmp_path: Path) -> None:
    # Of nine minutes a part's share is soon over on a machine that does other work too.
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--minutes", "60"]
    command += ["--output", str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=ROOT, env=bare_environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (result,) = (tmp_path / "out").glob("*.json")
    content = json.loads(result.read_text())
    sections = {section["title"]: section for section in content["sections"]}

    assert "did not work" not in content["facts"]
    assert sections[machine.SECTION]["rows"]
    rows = sections[rates.SECTION]["rows"]
    assert {row["execution"].split(",")[0] for row in rows} == {"eager", "torch.compile"}
    assert len(sections["GPU tests"]["rows"]) >= 10
    assert {row["layout"] for row in rows} == {"channels_last", "contiguous"}
    for kind in rates.KINDS:
        assert {row["batch"] for row in rows if row["step"].startswith(kind)} >= set(rates.batches(kind, TINY))
        assert any(title.startswith(f"Profile: {kind}") for title in sections)
    assert all(0 < row["% of the peak"] < 150 for row in rows)
    assert {row["processes"] for row in sections[together.SECTION]["rows"]} == set(TINY.processes)
    trained = [row["of"] for row in sections[recipe.SECTION]["rows"]]
    assert trained == ["teacher resnet14", "GAN", "student resnet8, hybrid", "student resnet8, real-only"]
    for name in ("teacher", "GAN", "hybrid", "real-only"):
        assert len(sections[f"{recipe.CURVE}: {name}"]["rows"]) == TINY.points
    assert [row["stage"] for row in sections[recipe.WHOLE]["rows"]] == ["teacher step", "GAN step", "KD step"]

    text = result.with_suffix(".md").read_text()
    (picture,) = re.findall(r"!\[.*\]\((.*\.png)\)", text)
    assert (result.parent / picture).stat().st_size > 0
    assert all(f"## {title}\n" in text for title in sections)


def test_a_run_that_is_cut_off_leaves_the_rows_until_then(tmp_path: Path) -> None:
    record = Record(tmp_path / "cut")
    record.begin("Cut off", {"device": "some GPU"})
    record.section("Rates", "Of steps.").row({"step": "KD step", "images/s": 12345.6, "batch": 64, "memory": None})
    assert (tmp_path / "cut.md").read_text() == (
        "# Cut off\n* **device**: some GPU\n\n## Rates\nOf steps.\n\n"
        "| step | images/s | batch | memory |\n|---|---:|---:|---:|\n| KD step | 12,346 | 64 | – |\n"
    )
    again = Record(tmp_path / "cut")
    again.section("Rates").row({"step": "GAN step", "images/s": 0.5})
    assert [row["images/s"] for row in Record(tmp_path / "cut").rows("Rates")] == [12345.6, 0.5]


@pytest.fixture
def run_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run Python programs in place of the parts; return the exit code and the record."""

    def run(minutes: float, **programs: str) -> tuple[int, Record]:
        monkeypatch.setattr(gpu, "SHARES", dict.fromkeys(programs, 0.4))
        monkeypatch.setattr(gpu, "command", lambda name, options: [sys.executable, "-c", programs[name]])
        words = ["--device", "cpu", "--tiny", "--minutes", f"{minutes}", "--output", str(tmp_path)]
        code = gpu.main(words)
        (path,) = tmp_path.glob("*.json")
        return code, Record(path.with_suffix(""))

    return run


def test_a_part_that_fails_or_hangs_is_said_and_the_others_go_on(run_parts: Any, tmp_path: Path) -> None:
    last = tmp_path / "last"
    hangs = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    code, record = run_parts(0.1, fails="raise SystemExit(3)", hangs=hangs, ends=f"open({str(last)!r}, 'w')")
    assert code == 1
    assert record.content["facts"]["did not work"].startswith("fails ended with exit code 3; hangs was ended after its")
    assert last.exists()


def ends_soon(process: int) -> bool:
    """Return whether a process that was killed is gone within seconds."""
    deadline = time.monotonic() + 20
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(process)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(("minutes", "code"), [(0.1, 1), (1.0, 130)], ids=["its time is over", "SIGTERM"])
def test_a_part_that_is_ended_leaves_no_process_and_no_file(
    minutes: float, code: int, run_parts: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, before))
    left = tmp_path / "left"
    hangs = (
        "import os, pathlib, signal, subprocess, tempfile, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"pathlib.Path({str(left)!r}).write_text(f'{{child.pid}} {{tempfile.mkdtemp()}}')\n"
        f"{code} == 130 and os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)"
    )
    assert run_parts(minutes, hangs=hangs)[0] == code
    child, folder = left.read_text().split()
    deadline = time.monotonic() + 10
    while is_running(int(child)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(int(child))
    assert not Path(folder).exists()


def test_gpu_tests_that_take_too_long_are_ended_with_their_processes_and_the_outcomes_until_then_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_hangs.py").write_text(
        "import multiprocessing, pathlib, time, pytest\n"
        "@pytest.mark.gpu\n"
        "def test_of_sums():\n"
        "    assert 1 + 1 == 2\n"
        "@pytest.mark.gpu\n"
        "def test_that_hangs():\n"
        "    child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,), daemon=True)\n"
        "    child.start()\n"
        f"    pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "    time.sleep(60)\n"
    )
    monkeypatch.setattr(gpu_tests, "TESTS", tmp_path / "tests")
    record = Record(tmp_path / "run")
    # Shells start jobs in the background with SIGINT ignored, which all their processes inherit.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(HidfdError, match=r"pytest was ended after 4 s"):
            gpu_tests.run(record, 4.0)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert [(row["test"], row["outcome"]) for row in record.rows("GPU tests")] == [("of sums", "1 passed")]
    assert ends_soon(int((tmp_path / "child").read_text()))


def test_a_process_that_has_ended_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    worker = workers.Worker(workers.Spec("cpu", "quick", "fp32", {"KD step": 4}))
    assert worker.answer(60) is None
    worker.ask("KD step", 1.0)
    worker.end()


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "nine"])
def test_minutes_that_are_no_time_are_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--minutes", minutes])
    assert f"{minutes}: must be a number above 0" in capsys.readouterr().err


def test_a_wrong_folder_is_one_message_before_anything_is_measured_or_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert gpu.main(["--data", str(tmp_path / "missing"), "--output", str(tmp_path / "out")]) == 3
    assert "missing: no Parquet file with a column `label`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert gpu.main(["--output", str(tmp_path / "file")]) == 2
    assert f"--output {tmp_path / 'file'}: " in capsys.readouterr().err


def test_parts_for_which_no_time_is_left_are_named(run_parts: Any) -> None:
    code, record = run_parts(0.001, rates="raise AssertionError")
    assert code == 1
    assert record.content["facts"]["did not work"] == "rates was left out: no time was left"


def test_without_its_device_a_run_ends_at_once_with_the_documented_exit_code(run_parts: Any, tmp_path: Path) -> None:
    later = tmp_path / "later"
    code, _ = run_parts(1, machine="raise SystemExit(5)", rates=f"open({str(later)!r}, 'w')")
    assert code == 5
    assert not later.exists()


def test_missing_gpu_is_one_message(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks.gpu", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "no CUDA device" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_papers_networks_on_a_cpu_are_refused_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu"]) == 2
    assert "add --tiny" in capsys.readouterr().err


def test_memory_of_a_row_is_not_that_of_the_rows_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    built: list[weakref.ref[torch.nn.Module]] = []
    forward = rates.STEPS["teacher forward"]

    def build(config: Any, device: Any) -> Any:
        alive.append(sum(reference() is not None for reference in built))
        step = forward(config, device)
        built.extend(map(weakref.ref, step.modules))
        return step

    monkeypatch.setitem(rates.STEPS, "teacher forward", build)
    gc.disable()
    try:
        for _ in range(3):
            rates.measure("teacher forward", 2, Device(torch.device("cpu"), "fp32"), TINY, Record(tmp_path / "run"))
    finally:
        gc.enable()
    assert alive == [0, 0, 0]


def test_time_in_which_kernels_overlap_counts_once() -> None:
    def event(start: float, end: float, kind: DeviceType = DeviceType.CUDA, *, annotation: bool = False) -> Any:
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(time_range=span, device_type=kind, is_user_annotation=annotation)

    events = [event(0, 10), event(5, 20), event(7, 8), event(30, 31)]
    ignored = [event(0, 100, DeviceType.CPU), event(0, 100, annotation=True)]
    profiler: Any = SimpleNamespace(events=lambda: events + ignored)
    assert rates._device_work(profiler) == (4, pytest.approx(21e-6))


def test_the_largest_teacher_whose_epochs_fit_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "train.parquet", 600, labels=True)
    images = cut(tmp_path, TINY, tmp_path / "cut")
    speed = {"resnet34-32px": 100.0, "resnet18-32px": 1_000.0, "wrn-40-2": 10_000.0}
    monkeypatch.setattr(recipe, "_rate", lambda kind, config, *_: speed.get(config.teacher.architecture, 1e5))
    device: Any = SimpleNamespace(precision="fp32")
    needed = FULL.teacher_epochs * images.counts["teacher"]
    config, rate = recipe._largest_teacher(images, FULL, device, 1.01 * needed / 1_000)
    assert (config.teacher.architecture, config.distillation.architecture, rate) == ("resnet18-32px", "wrn-40-2", 1_000)


def test_the_whole_recipe_is_extrapolated_from_the_measured_rates(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    section = record.section(rates.SECTION)
    row = {"precision": "bf16", "layout": "channels_last", "execution": "eager"}
    section.row(row | {"step": "KD step (x)", "batch": 64, "images/s": 10_000.0})
    section.row(row | {"step": "KD step (x)", "batch": 512, "images/s": 40_000.0})
    section.row(row | {"step": "KD step (x)", "batch": 256, "images/s": "out of memory"})
    recipe.extrapolate(record, FULL, "bf16")
    (found,) = record.rows(recipe.WHOLE)
    assert found["as the paper, minutes"] == pytest.approx(24e6 / 10_000 / 60)
    assert found["fastest, minutes"] == pytest.approx(24e6 / 40_000 / 60)
    assert found["fastest is"] == "eager, bf16, batch 512"


def test_the_record_says_in_short_what_the_steps_reach_and_the_fewest_processes_that_are_worth_it(
    tmp_path: Path,
) -> None:
    record = Record(tmp_path / "run")
    assert together.in_short(record, FULL, "bf16") == "no step of the recipe was measured"
    row = {"step": "KD step (x)", "precision": "bf16", "layout": "channels_last", "execution": "eager"}
    section = record.section(rates.SECTION)
    section.row(row | {"batch": 512, "images/s": 31_100.0, "% of the peak": 23.4})
    section.row(row | {"batch": 64, "images/s": 4_414.0, "% of the peak": 3.33})
    section.row(row | {"step": "GAN step (x)", "batch": 100, "images/s": 1_385.0, "% of the peak": None})
    for processes, times in ((1, 1.0), (2, 1.93), (4, 3.43), (8, 3.47)):
        record.section(together.SECTION).row({"step": "KD step", "processes": processes, "x alone": times})
    assert together.in_short(record, FULL, "bf16") == (
        "KD step, batch 64: 4,414 images/s, 3.3% of the bf16 peak, 3.4 times as many in 4 processes side by side; "
        "GAN step, batch 100: 1,385 images/s"
    )


def test_compiled_steps_that_take_too_long_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        def __init__(self, spec: Any) -> None: ...

        def answer(self, seconds: float) -> None: ...

        def end(self) -> None: ...

    monkeypatch.setattr(compiled, "Worker", Slow)
    monkeypatch.setattr(compiled.gpu_tests, "run", lambda record, seconds_left: None)
    options: Any = SimpleNamespace(size=TINY, device="cpu", precisions=("fp32",), seconds=20)
    compiled.run(options, Record(tmp_path / "run"))
    assert (
        "KD step, batch 4, torch.compile, aot_eager: failed, or not ready within 20 s"
        in (tmp_path / "run.md").read_text()
    )
