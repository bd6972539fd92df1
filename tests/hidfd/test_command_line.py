"""The verbs of `python -m hidfd` on a tiny study: their output, their files, and the next command that they name.

Refusals and their messages are tested in tests/integration/test_bad_input.py.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

import hidfd.__main__
import hidfd.trial
from hidfd.networks.build import build_backbone
from hidfd.stages.context import StageContext
from hidfd.stages.imports.images import import_images
from hidfd.stages.methods.student_training import StudentTraining
from hidfd.store.store import Artifact
from tests.integration.conftest import Outcome, Workplace, tiny_study

ROLES = ["candidates", "validation", "teacher", "collection", "generation", "synthesis", "distillation", "evaluation"]
ANOTHER_STUDENT = "trial.seeds.distillation=1"


def make_study(folder: Path) -> Workplace:
    """Write a study file, 36 candidates, 6 labelled images and a teacher."""
    study = tiny_study()
    trial = study["trial"]
    trial["data"]["validation"] = {"path": "labelled"}
    trial["teacher"]["width"] = trial["distillation"]["width"] = 8
    trial["collection"] = {"num_images": 12, "holdout_images": 20, "mode": "random"}
    trial["generation"] |= {"target_images": 16, "statistics_batches": 1, "smoothing": {"mode": "off"}}
    trial["synthesis"]["num_images"] = 10
    trial["distillation"]["target_images"] = 32
    place = Workplace(folder)
    place.write(study)
    draws = np.random.default_rng(0)
    for number in range(42):
        part = folder / ("photos" if number < 36 else f"labelled/{number % 3}")
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (28, 28), dtype=np.uint8)).save(part / f"{number}.png")
    torch.manual_seed(0)
    teacher = build_backbone("resnet8", num_classes=3, channels=1, width=8)
    safetensors.torch.save_file(teacher.state_dict(), folder / "teacher.safetensors")
    return place


def command(place: Workplace, *arguments: str, exit_code: int = 0) -> Outcome:
    """Run `python -m hidfd ARGUMENTS` on a wide terminal, with the store of the study file."""
    outcome = place.run("hidfd", *arguments, COLUMNS="300", HIDFD_STORE="")
    assert outcome.returncode == exit_code, outcome.stdout + outcome.stderr
    return outcome


def shown(place: Workplace, *arguments: str) -> Any:
    """Return the output of a verb with `--json`, which must be one JSON document and nothing else."""
    return json.loads(command(place, *arguments, "--json").stdout)


def next_command(outcome: Outcome) -> str:
    """Return the next command that the output names."""
    [line] = [line for line in outcome.stdout.splitlines() if "next:" in line]
    return line.partition("next:")[2].partition("   (")[0].strip()


@pytest.fixture
def fresh(tmp_path: Path) -> Workplace:
    return make_study(tmp_path)


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, Outcome]:
    place = make_study(tmp_path_factory.mktemp("study"))
    return place, command(place, "run", "study.yaml", "--json", "--device", "cpu")


@pytest.fixture
def built(run_once: tuple[Workplace, Outcome], tmp_path: Path) -> Iterator[Workplace]:
    """A copy of the study after its run, which a test may change."""
    shutil.copytree(run_once[0].folder, tmp_path / "copy")
    yield Workplace(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_a_trial_leave_the_cores_to_others_while_they_wait_unless_the_user_says_otherwise(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")  # so that it is put back afterwards
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert hidfd.__main__.main(["run", "missing.yaml"]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == expected


def test_dry_run_says_where_each_value_comes_from_and_builds_nothing(fresh: Workplace) -> None:
    outcome = command(fresh, "run", "study.yaml", "--dry-run", "trial.distillation.inflation=5")
    words = [line.split() for line in outcome.stdout.splitlines()]
    rows = {line[0]: (line[1], " ".join(line[2:])) for line in words if len(line) > 2}
    line = 1 + (fresh.folder / "study.yaml").read_text().splitlines().index("    latent_dim: 8")
    assert rows["trial.distillation.inflation"] == ("5.0", "command line")
    assert rows["trial.generation.latent_dim"] == ("8", f"study.yaml:{line}")
    assert rows["trial.generation.networks"] == ("light", "preset quick")
    assert rows["trial.generation.adam_beta2"] == ("0.999", "default")
    assert rows["storage.store"] == (".hidfd/store", "default")
    assert f"store:    {fresh.folder}/.hidfd/store\n" in outcome.stdout
    assert f"results:  {fresh.folder}/.hidfd/results\n" in outcome.stdout
    assert f"tracking: sqlite:///{fresh.folder}/.hidfd/mlflow.db\n" in outcome.stdout
    assert "nothing was run" in outcome.stdout
    assert next_command(outcome) == "python -m hidfd run study.yaml trial.distillation.inflation=5"
    assert not (fresh.folder / ".hidfd").exists()


def test_dry_run_names_every_path_that_is_missing_or_not_writable_at_once(fresh: Workplace) -> None:
    shutil.rmtree(fresh.folder / "photos")
    (fresh.folder / "teacher.safetensors").unlink()
    wrong = ("trial.data.test={path: tests-*.parquet}", "storage.results=study.yaml", "storage.store=study.yaml/store")
    outcome = command(fresh, "run", "study.yaml", "--dry-run", *wrong, exit_code=3)
    assert outcome.stderr.count("error: ") == 1
    for setting in ("data.candidates.path", "data.test.path", "teacher.checkpoint.path"):
        assert f"trial.{setting}: " in outcome.stderr
    assert "storage.results: " in outcome.stderr
    assert "study.yaml/store" in outcome.stderr
    assert "trial.data.validation" not in outcome.stderr
    assert "storage.store" in outcome.stdout
    assert "nothing was run" not in outcome.stdout
    places = command(
        fresh, "run", "study.yaml", "--dry-run", wrong[1], "trial.teacher.checkpoint={path: .}", exit_code=3
    )
    assert "teacher.checkpoint.path" in places.stderr


def test_dry_run_needs_no_files_of_what_the_store_has(built: Workplace) -> None:
    sha256 = shown(built, "import", "study.yaml")["data.candidates"]
    shutil.rmtree(built.folder / "photos")
    command(built, "run", "study.yaml", "--dry-run", f"trial.data.candidates.sha256={sha256}")
    unknown = f"trial.data.candidates={{sha256: {'0' * 64}}}"
    outcome = command(built, "run", "study.yaml", "--dry-run", unknown, exit_code=3)
    assert "trial.data.candidates: sha256 000" in outcome.stderr


def test_dry_run_as_json_names_every_setting_once(fresh: Workplace) -> None:
    settings = shown(fresh, "run", "study.yaml", "--dry-run", "--store", "elsewhere")
    assert settings["storage.store"] == {"value": "elsewhere", "from": "command line"}
    assert settings["trial.distillation.width"]["value"] == 8
    assert settings["trial.teacher.mean"]["value"] == [0.3]
    assert all(set(setting) == {"value", "from"} for setting in settings.values())
    assert not (fresh.folder / "elsewhere").exists()


def test_run_as_json_is_one_document_with_the_numbers_of_the_result_file(run_once: tuple[Workplace, Outcome]) -> None:
    place, outcome = run_once
    document = json.loads(outcome.stdout)
    assert set(document) == {"metrics", "seconds", "folder"}
    folder = place.folder / document["folder"]
    assert document["metrics"] == json.loads((folder / "result.json").read_text())
    assert (folder / "report.html").is_file()
    assert 0 <= document["metrics"]["agreement"] <= 1
    assert set(document["seconds"]) == set(ROLES)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""Environment of a login whose locale knows ASCII only."""


@pytest.mark.slow
def test_study_runs_in_a_locale_that_has_neither_the_dashes_of_a_report_nor_the_letters_of_a_path(
    fresh: Workplace,
) -> None:
    (fresh.folder / "photos").rename(fresh.folder / "Fötos №1")
    study = (fresh.folder / "study.yaml").read_text(encoding="utf-8")
    (fresh.folder / "study.yaml").write_text(study.replace("path: photos", "path: Fötos №1"), encoding="utf-8")
    outcome = fresh.run_process("hidfd", "run", "study.yaml", "--device", "cpu", **ASCII)
    assert outcome.returncode == 0, outcome.stderr
    assert "agreement with the teacher" in outcome.stdout
    assert "?" in outcome.stdout  # in place of ±
    [report] = fresh.folder.glob(".hidfd/results/*/*/report.html")
    assert "–" in report.read_text(encoding="utf-8")
    again = fresh.run_process("hidfd", "run", str(report.parent / "config.yaml"), "--dry-run", **ASCII)
    assert again.returncode == 0, again.stderr


def test_refusal_as_json_is_one_document_too(fresh: Workplace) -> None:
    outcome = command(fresh, "run", "study.yaml", "--json", "trial.data.candidates.path=nowhere", exit_code=3)
    document = json.loads(outcome.stdout)
    assert document["exit_code"] == 3
    assert f"error: {document['error']}" in outcome.stderr


def test_too_little_memory_is_one_message_and_a_smaller_batch_goes_on_from_what_was_built(
    built: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = StudentTraining.step

    def limited(training: StudentTraining, images_seen: int) -> dict[str, torch.Tensor]:
        if training.settings.batch_images > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return step(training, images_seen)

    monkeypatch.setattr(StudentTraining, "step", limited)
    refused = command(built, "run", "study.yaml", ANOTHER_STUDENT, exit_code=5)
    [line] = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith("error: distillation: out of memory")
    assert "2.00 GiB more could not be had" in line
    assert "trial.distillation.batch_images (now 16)" in line
    assert "Traceback" not in refused.stderr
    smaller = command(built, "run", "study.yaml", ANOTHER_STUDENT, "trial.distillation.batch_images=8")
    words = [line.split() for line in smaller.stdout.splitlines()]
    assert {line[0] for line in words if "reused" in line} == set(ROLES) - {"distillation", "evaluation"}


def test_run_in_words_names_the_report_and_what_can_be_asked_next(built: Workplace) -> None:
    outcome = command(built, "run", "study.yaml")
    assert "agreement with the teacher" in outcome.stdout
    assert "(n = 1)" in outcome.stdout
    [report] = [line.split()[1] for line in outcome.stdout.splitlines() if line.startswith("report:")]
    assert (built.folder / report).is_file()
    assert next_command(outcome) == "python -m hidfd stages study.yaml"
    words = [line.split() for line in outcome.stdout.splitlines()]
    assert {line[0] for line in words if "reused" in line} == set(ROLES)


def test_run_until_the_teacher_names_its_weights_and_goes_on_with_run(built: Workplace) -> None:
    outcome = command(built, "run", "study.yaml", "--until", "teacher")
    [weights] = [line.partition("teacher: ")[2] for line in outcome.stdout.splitlines() if line.startswith("teacher:")]
    assert safetensors.torch.load_file(built.folder / weights)["fc.weight"].shape == (3, 32)
    assert next_command(outcome) == "python -m hidfd run study.yaml"


def test_stages_before_a_run_are_missing_with_the_seconds_to_expect(fresh: Workplace) -> None:
    rows = {row["stage"]: row for row in shown(fresh, "stages", "study.yaml")}
    assert list(rows) == ROLES
    assert not any(row["built"] for row in rows.values())
    assert all(len(row["digest"]) == 64 for row in rows.values())
    assert [role for role, row in rows.items() if row.get("expected_seconds", 0) > 0] == ["generation", "distillation"]
    outcome = command(fresh, "stages", "study.yaml")
    assert outcome.stdout.count("missing") == len(ROLES)
    assert "about one CPU core" in outcome.stdout
    assert next_command(outcome) == "python -m hidfd run study.yaml"


def test_stages_after_a_run_are_built_with_the_seconds_they_took(
    run_once: tuple[Workplace, Outcome], fresh: Workplace
) -> None:
    place, ran = run_once
    rows = shown(place, "stages", "study.yaml")
    assert [row["stage"] for row in rows if row["built"]] == ROLES
    assert not any("expected_seconds" in row for row in rows)
    seconds = json.loads(ran.stdout)["seconds"]
    took = {row["stage"]: row["seconds"] for row in rows if row["seconds"] is not None}
    assert took["generation"] == pytest.approx(seconds["generation"])
    assert took["distillation"] == pytest.approx(seconds["distillation"])
    assert [row["digest"] for row in rows] == [row["digest"] for row in shown(fresh, "stages", "study.yaml")]
    outcome = command(place, "stages", "study.yaml")
    assert "missing" not in outcome.stdout
    assert next_command(outcome) == "python -m hidfd evaluate study.yaml"


def test_stage_that_is_missing_is_expected_to_take_what_its_like_took_here(
    run_once: tuple[Workplace, Outcome],
) -> None:
    place, _ = run_once
    took = {row["stage"]: row["seconds"] for row in shown(place, "stages", "study.yaml")}
    rows = {row["stage"]: row for row in shown(place, "stages", "study.yaml", ANOTHER_STUDENT)}
    assert [role for role, row in rows.items() if not row["built"]] == ["distillation", "evaluation"]
    assert rows["distillation"]["expected_seconds"] == pytest.approx(took["distillation"])
    outcome = command(place, "stages", "study.yaml", ANOTHER_STUDENT)
    assert "at the speed of what was built here before" in outcome.stdout
    assert next_command(outcome) == f"python -m hidfd run study.yaml {ANOTHER_STUDENT}"


def test_import_prints_sha256_lines_that_take_the_place_of_the_paths(fresh: Workplace) -> None:
    digests = [row["digest"] for row in shown(fresh, "stages", "study.yaml")]
    outcome = command(fresh, "import", "study.yaml")
    assert next_command(outcome) == "python -m hidfd run study.yaml"
    lines = [line.strip() for line in outcome.stdout.splitlines() if "sha256:" in line]
    materials = {path: value for line in lines for path, value in yaml.safe_load(line).items()}
    assert set(materials) == {"trial.data.candidates", "trial.data.validation", "trial.teacher.checkpoint"}

    study = yaml.safe_load((fresh.folder / "study.yaml").read_text())
    for path, value in materials.items():
        section, key = path.split(".")[1:]
        study["trial"][section][key] = value
    fresh.write(study)
    for name in ("photos", "labelled"):
        shutil.rmtree(fresh.folder / name)
    (fresh.folder / "teacher.safetensors").unlink()
    rows = shown(fresh, "stages", "study.yaml")
    assert [row["digest"] for row in rows] == digests
    assert [row["stage"] for row in rows if row["built"]] == ["candidates", "validation", "teacher"]
    assert shown(fresh, "import", "study.yaml") == {
        path.removeprefix("trial."): value["sha256"] for path, value in materials.items()
    }


def test_store_remove_beside_an_import_spares_what_is_imported_already(
    fresh: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_then_remove(context: StageContext) -> Artifact:
        artifact = import_images(context)
        assert command(fresh, "store", "remove", "--store", ".hidfd/store").stdout.endswith("0 entries, 0.0 MB\n")
        return artifact

    monkeypatch.setattr(hidfd.trial, "import_images", import_then_remove)
    command(fresh, "import", "study.yaml")
    built = {row["stage"] for row in shown(fresh, "stages", "study.yaml") if row["built"]}
    assert built == {"candidates", "validation", "teacher"}


def test_evaluate_before_a_run_names_the_command_to_run(fresh: Workplace) -> None:
    outcome = command(fresh, "evaluate", "study.yaml", exit_code=4)
    assert "not finished" in outcome.stderr
    assert "run it first: python -m hidfd run study.yaml" in outcome.stderr
    assert not outcome.stdout


def test_evaluate_after_a_run_prints_the_numbers_of_the_run(run_once: tuple[Workplace, Outcome]) -> None:
    place, ran = run_once
    metrics, numbers = json.loads(ran.stdout)["metrics"], shown(place, "evaluate", "study.yaml")
    for name in ("agreement", "agreement_standard_error", "validation_accuracy", "kl_to_teacher"):
        assert numbers[name] == metrics[name]
    words = dict(line.split(maxsplit=1) for line in command(place, "evaluate", "study.yaml").stdout.splitlines())
    assert words["agreement"] == f"{metrics['agreement']:.4f}"


def test_evaluate_of_a_test_split_that_is_not_there_says_so(run_once: tuple[Workplace, Outcome]) -> None:
    outcome = command(run_once[0], "evaluate", "study.yaml", "--test", exit_code=2)
    assert "data.test" in outcome.stderr


def test_store_lists_every_artifact_with_the_study_that_refers_to_it(run_once: tuple[Workplace, Outcome]) -> None:
    place, _ = run_once
    rows = shown(place, "store", "list")
    artifacts = {row["digest"] for row in rows if row["kind"] == "artifact" and row["stage"] != "teacher_check"}
    assert artifacts == {row["digest"] for row in shown(place, "stages", "study.yaml")}
    others = [(row["kind"], row["stage"]) for row in rows if row["digest"] not in artifacts]
    assert others == [("checkpoints", "checkpoints"), ("artifact", "teacher_check")], "for a longer generator"
    [(name,)] = {tuple(row["referenced_by"]) for row in rows}
    assert name.startswith("tiny.trial")
    assert all(row["bytes"] > 0 for row in rows)
    outcome = command(place, "store", "list")
    assert f"in all: {len(ROLES) + 2} entries" in outcome.stdout
    assert outcome.stdout.count(name) == len(ROLES) + 2


def referring(place: Workplace) -> set[str]:
    return {name for row in shown(place, "store", "list") for name in row["referenced_by"]}


def test_store_removes_what_nobody_refers_to_any_more_and_spares_the_rest(built: Workplace) -> None:
    before = {row["stage"]: row["digest"] for row in shown(built, "stages", "study.yaml")}
    [first] = referring(built)
    command(built, "import", "study.yaml", "trial.seeds.generation=1")  # shares all but the generator and what follows
    assert shown(built, "store", "remove") == []
    assert all(row["built"] for row in shown(built, "stages", "study.yaml"))

    command(built, "store", "forget", first)
    garbage = {"generation", "synthesis", "distillation", "evaluation"}  # and the state of that generator
    for _ in range(2):  # a dry run changes nothing
        planned = shown(built, "store", "remove", "--dry-run")
        assert {row["digest"] for row in planned if row["kind"] == "artifact"} == {before[role] for role in garbage}
        assert [row["stage"] for row in planned if row["kind"] != "artifact"] == ["checkpoints"]
    assert "would remove: 5 entries" in command(built, "store", "remove", "--dry-run").stdout
    assert len(shown(built, "store", "list")) == len(ROLES) + 2

    assert "removed: 5 entries" in command(built, "store", "remove").stdout
    rows = shown(built, "stages", "study.yaml")
    assert {row["stage"] for row in rows if not row["built"]} == garbage
    assert len(shown(built, "store", "list")) == len(ROLES) + 1 - len(garbage)


def test_store_spares_what_a_study_of_another_name_refers_to(built: Workplace) -> None:
    [first] = referring(built)
    command(built, "import", "study.yaml", "name=other")
    command(built, "store", "forget", first)
    assert shown(built, "store", "remove") == []
    assert all(row["built"] for row in shown(built, "stages", "study.yaml"))


def test_store_forgets_nothing_on_a_dry_run_and_nobody_whom_it_does_not_know(built: Workplace) -> None:
    [first] = referring(built)
    command(built, "store", "forget", first, "--dry-run")
    outcome = command(built, "store", "forget", first, "tinny", exit_code=2)
    assert "no such name: tinny" in outcome.stderr
    assert first in outcome.stderr
    assert referring(built) == {first}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("VERB",)),
        (("runn", "study.yaml"), ("'runn'", "'run', 'import', 'stages', 'evaluate', 'store'")),
        (("run",), ("FILE",)),
        (("run", "study.yaml", "--untill", "teacher"), ("unknown arguments", "--untill")),
        (("run", "study.yaml", "--until", "distill"), ("'distill'", "'distillation'", "'evaluation'")),
        (("run", "study.yaml", "--device", "gpu"), ("'gpu'", "'auto', 'cpu', 'cuda'")),
        (("stages", "study.yaml", "--device", "cpu"), ("unknown arguments", "--device")),
        (("store", "delete"), ("'delete'", "'list', 'remove'")),
    ],
)
def test_unknown_word_ends_with_exit_code_2_and_what_is_known(
    arguments: tuple[str, ...], words: tuple[str, ...], fresh: Workplace
) -> None:
    outcome = command(fresh, *arguments, exit_code=2)
    assert "usage: python -m hidfd" in outcome.stderr
    for word in words:
        assert word in outcome.stderr
    assert not outcome.stdout
    assert not (fresh.folder / ".hidfd").exists()


@pytest.mark.parametrize("verb", ["run", "import", "stages", "evaluate", "store"])
def test_help_of_every_verb_explains_it_and_the_exit_codes(verb: str, tmp_path: Path) -> None:
    outcome = command(Workplace(tmp_path), verb, "--help")
    assert "exit codes:" in outcome.stdout
    assert "--store" in outcome.stdout
    assert "--json" in outcome.stdout


@pytest.mark.parametrize("override", ["study.num_students=3", "search.distillation.inflation.high=3"])
def test_a_setting_of_studies_is_refused_where_one_trial_runs(fresh: Workplace, override: str) -> None:
    outcome = command(fresh, "run", "study.yaml", override, exit_code=2)
    assert override in outcome.stderr
    assert "python -m tune" in outcome.stderr


def test_a_missing_test_split_is_said_before_anything_is_looked_for(fresh: Workplace) -> None:
    outcome = command(fresh, "evaluate", "study.yaml", "--test", exit_code=2)
    assert "trial.data.test" in outcome.stderr


def test_looking_at_a_store_that_is_not_there_makes_none(fresh: Workplace) -> None:
    outcome = command(fresh, "store", "list", "--store", str(fresh.folder / "nowhere"), exit_code=4)
    assert "there is no store" in outcome.stderr
    assert not (fresh.folder / "nowhere").exists()


def test_reader_that_has_seen_enough_ends_the_program_without_a_word(fresh: Workplace) -> None:
    command = [sys.executable, "-m", "hidfd", "stages", "study.yaml", "--json"]
    with subprocess.Popen(command, cwd=fresh.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 141
