"""A wrong input gives one clear message and the documented exit code, and harms nothing.

All tests use the real command line, where a traceback would show. Most commands run in the test's process, where an
exception ends the test; some run as processes, as a user runs them.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from hidfd.networks.build import build_backbone

CONFIG, INPUT, STORE, DEVICE, DIVERGED = 2, 3, 4, 5, 6


def check_refused(outcome: Any, exit_code: int, *words: str, lines: int = 3) -> None:
    """Check that a command ended with one message with all the words, with the exit code, and without a traceback.

    Args:
        lines: of the message, at most.
    """
    said = outcome.stdout + outcome.stderr
    assert "Traceback" not in said, said
    assert outcome.returncode == exit_code, said
    progress, found, message = outcome.stderr.partition("error: ")
    assert found, said
    for word in words:
        assert word in message, f"{word!r} is missing in: {message}"
    assert len(message.strip().splitlines()) <= lines, message
    assert "error" not in progress, progress


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "exit_code", "word"),
    [("trial.seeds.teacher=-1", CONFIG, "seeds.teacher"), ("trial.data.candidates.path=fotos", INPUT, "fotos")],
)
def test_process_ends_with_the_documented_exit_code(tiny: Any, override: str, exit_code: int, word: str) -> None:
    check_refused(tiny.run_process("hidfd", "run", "study.yaml", override), exit_code, word)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trial.generation.widht=8", ("generation.widht", "did you mean", "width")),
        ("trial.distillation.inflation=-1", ("distillation.inflation", "-1")),
        ("trial.distillation.architecture=resnet9", ("resnet9", "known: resnet8,")),
        ("trial.distillation.learning_rate=fast", ("distillation.learning_rate", "fast")),
        ("trial.precision=bf16", ("trial.precision", "fp32")),
    ],
)
def test_wrong_override_is_named_with_what_was_expected(tiny: Any, override: str, words: tuple[str, ...]) -> None:
    exit_code = DEVICE if "bf16" in override else CONFIG
    check_refused(tiny.run("hidfd", "run", "study.yaml", "--device", "cpu", override), exit_code, *words)


def test_unknown_keys_and_values_out_of_range_are_all_named_at_once_with_their_lines(tiny: Any) -> None:
    text = (tiny.folder / "study.yaml").read_text()
    text = text.replace("    latent_dim: 8", "    latent_dim: 0").replace("    num_images: 20", "    num_imagse: 20")
    (tiny.folder / "study.yaml").write_text(text)
    lines = text.splitlines()
    wrong = [1 + lines.index(line) for line in ("    latent_dim: 0", "    num_imagse: 20")]
    outcome = tiny.run("hidfd", "run", "study.yaml")
    check_refused(outcome, CONFIG, *(f"study.yaml:{number}" for number in wrong), "latent_dim", "num_imagse")


def test_study_file_that_is_not_there_is_named(tiny: Any) -> None:
    check_refused(tiny.run("hidfd", "run", "studdy.yaml"), CONFIG, "studdy.yaml")


def test_study_file_that_is_no_yaml_is_named_with_the_line(tiny: Any) -> None:
    (tiny.folder / "study.yaml").write_text("name: tiny\ntrial: {data: [\n")
    check_refused(tiny.run("hidfd", "run", "study.yaml"), CONFIG, "study.yaml")


def test_path_that_does_not_exist_is_named(tiny: Any) -> None:
    outcome = tiny.run("hidfd", "run", "study.yaml", "trial.data.candidates.path=fotos")
    check_refused(outcome, INPUT, "data.candidates", "fotos")


def test_folder_without_images_says_what_it_holds_instead(tiny: Any) -> None:
    shutil.rmtree(tiny.folder / "photos")
    (tiny.folder / "photos").mkdir()
    (tiny.folder / "photos" / "notes.txt").write_text("no image")
    check_refused(tiny.run("hidfd", "import", "study.yaml"), INPUT, "photos", "no images", ".txt")


@pytest.mark.parametrize("damage", ["empty", "truncated", "no rows"])
def test_damaged_parquet_is_refused_by_name(tiny: Any, damage: str) -> None:
    path = tiny.folder / "photos.parquet"
    write_parquet(path, tiny.folder / "photos")
    if damage == "no rows":
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 2000])
    outcome = tiny.run("hidfd", "import", "study.yaml", "trial.data.candidates.path=photos.parquet")
    check_refused(outcome, INPUT, "photos.parquet")


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_classes_are_refused_with_the_range(tiny: Any, label: int) -> None:
    write_parquet(tiny.folder / "held.parquet", tiny.folder / "held", label=label)
    outcome = tiny.run("hidfd", "import", "study.yaml", "trial.data.validation.path=held.parquet")
    check_refused(outcome, INPUT, "held.parquet", str(label), "0..2")


def test_too_many_broken_files_are_refused_with_their_number(tiny: Any) -> None:
    for path in sorted((tiny.folder / "photos").iterdir())[:10]:
        path.write_bytes(b"not a picture")
    check_refused(tiny.run("hidfd", "import", "study.yaml"), INPUT, "photos", "10 of 60", lines=13)


def test_teacher_with_another_number_of_classes_is_refused_in_plain_words(tiny: Any) -> None:
    other = build_backbone("resnet8", num_classes=7, channels=1, width=4)
    safetensors.torch.save_file(other.state_dict(), tiny.folder / "teacher.safetensors")
    check_refused(tiny.run("hidfd", "run", "study.yaml"), INPUT, "teacher.safetensors", "7 classes", "says 3")


def test_teacher_of_another_architecture_is_refused_with_the_keys(tiny: Any) -> None:
    outcome = tiny.run("hidfd", "run", "study.yaml", "trial.teacher.architecture=resnet14")
    check_refused(outcome, INPUT, "teacher.safetensors", "resnet14", "missing")


def test_teacher_that_holds_no_numbers_is_refused(tiny: Any) -> None:
    state = safetensors.torch.load_file(tiny.folder / "teacher.safetensors")
    state = {
        name: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    safetensors.torch.save_file(state, tiny.folder / "teacher.safetensors")
    check_refused(tiny.run("hidfd", "run", "study.yaml"), INPUT, "not finite", "conv1.weight")


def test_two_classes_with_smoothing_are_refused_with_the_way_out(tiny: Any) -> None:
    outcome = tiny.run("hidfd", "run", "study.yaml", "trial.data.num_classes=2")
    check_refused(outcome, CONFIG, "smoothing", "at least 3 classes", "generation.smoothing.mode")


@pytest.mark.parametrize(
    ("path", "parameter", "word"),
    [
        ("distillation.inflatoin", {"type": "float", "low": 1, "high": 5}, "distillation.inflation"),
        ("generation.smoothing.temperature", {"type": "float", "low": 0.0, "high": 4.0}, "temperature"),
    ],
)
def test_search_path_is_checked_before_anything_runs(tiny: Any, path: str, parameter: Any, word: str) -> None:
    text = (tiny.folder / "study.yaml").read_text()
    line = f"  {path}: {{type: {parameter['type']}, low: {parameter['low']}, high: {parameter['high']}}}\n"
    (tiny.folder / "study.yaml").write_text(f"{text}search:\n{line}")
    check_refused(tiny.run("tune", "run", "study.yaml", "--engine", "local"), CONFIG, path, word)


def test_store_that_cannot_be_written_is_named(tiny: Any) -> None:
    (tiny.folder / "file").write_text("in the way")
    outcome = tiny.run("hidfd", "run", "study.yaml", HIDFD_STORE=str(tiny.folder / "file" / "store"))
    check_refused(outcome, STORE, str(tiny.folder / "file"))


def test_device_that_is_not_there_is_refused(tiny: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    check_refused(tiny.run("hidfd", "run", "study.yaml", "--device", "cuda"), DEVICE, "no CUDA device", "--device cpu")


FULL_DISK = """
set -u
mount -t tmpfs -o size=3m tmpfs disk || exit 77
export HIDFD_STORE=$PWD/disk/store
"$0" -m hidfd run study.yaml --until collection 1>&2 || exit 1
head -c 3m /dev/zero >disk/filler
"$0" -m "$@"; echo "while full: exit $?"
rm disk/filler
"$0" -m hidfd stages study.yaml --json
"$0" -m "$@" >after 2>&1; echo "afterwards: exit $?"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    [
        ("hidfd", "run", "study.yaml"),
        ("tune", "run", "study.yaml", "--engine", "local", "study.variants.hybrid={}"),
    ],
    ids=["trial", "study"],
)
def test_full_disk_is_one_clear_message_and_stored_artifacts_stay_whole(tiny: Any, run: tuple[str, ...]) -> None:
    (tiny.folder / "disk").mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", FULL_DISK, sys.executable, *run]
    try:
        outcome = subprocess.run(command, cwd=tiny.folder, capture_output=True, text=True, timeout=240, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if outcome.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {outcome.stderr[-200:]}")
    assert "Traceback" not in outcome.stderr, outcome.stderr
    assert f"while full: exit {STORE}" in outcome.stdout, outcome.stdout + outcome.stderr
    error = next(line for line in outcome.stderr.splitlines() if line.startswith("error:"))
    assert "disk/store" in error
    assert "space" in error
    stages = json.loads(next(line for line in outcome.stdout.splitlines() if line.startswith("[")))
    assert {row["stage"] for row in stages if row["built"]} >= {"candidates", "teacher", "collection"}
    assert "afterwards: exit 0" in outcome.stdout, (tiny.folder / "after").read_text()


def test_loss_that_is_no_number_ends_the_trial_and_keeps_what_was_built(tiny: Any) -> None:
    wild = ("trial.distillation.learning_rate=10", "trial.distillation.weight_decay=1000")
    outcome = tiny.run("hidfd", "run", "study.yaml", "trial.distillation.target_images=1600", *wild)
    check_refused(outcome, DIVERGED, "distillation", "finite")
    again = tiny.run("hidfd", "run", "study.yaml", "--json")
    assert again.returncode == 0, again.stderr
    reused = tiny.run("hidfd", "stages", "study.yaml")
    assert "missing" not in reused.stdout, reused.stdout


def write_parquet(path: Path, folder: Path, label: int = 0) -> None:
    """Write the folder's images in the Hugging Face layout, the last one with the given label."""
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in sorted(folder.rglob("*.png"))]
    labels = np.zeros(len(images), dtype=np.int64)
    labels[-1] = label
    pq.write_table(pa.table({"image": images, "label": labels}), path)


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("trial.teacher.std=[0]", CONFIG, ("trial.teacher.std.0", "greater than 0")),
        ("trial.teacher.mean=[.inf]", CONFIG, ("trial.teacher.mean", "finite")),
        ("trial.collection.holdout_images=4", CONFIG, ("trial.collection.holdout_images", "10")),
        ("storage.results=/dev/null/x", STORE, ("/dev/null/x", "part of that path is a file")),
    ],
)
def test_value_that_would_only_fail_later_is_refused_at_once(
    tiny: Any, override: str, code: int, words: tuple[str, ...]
) -> None:
    check_refused(tiny.run("hidfd", "run", "study.yaml", override), code, *words)
    assert not list((tiny.folder / ".hidfd" / "store").glob("collection/*"))
