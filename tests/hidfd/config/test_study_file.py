"""The study file: the origins of values, and the message for every mistake in it."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, RootModel

from hidfd.config.presets import PRESETS
from hidfd.config.schema import TrialConfig
from hidfd.config.storage import redacted
from hidfd.config.study_file import StudyFile, json_schema, load
from hidfd.errors import ConfigError

STUDY = """\
name: tiny
trial:
  preset: quick
  data:
    num_classes: 3
    candidates: {path: photos}
  teacher:
    checkpoint: {sha256: %s}
    mean: [0.5, 0.5, 0.5]
    std: [0.5, 0.5, 0.5]
  generation:
    width: 16
""" % ("a" * 64)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str = STUDY) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return path

    return write


def refusal(path: Path, *overrides: str) -> str:
    """Return the message about all that is wrong with a file, without the folder in front of its name."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides).trial()
    message = str(caught.value)
    assert "pydantic" not in message
    assert "http" not in message
    return message.replace(f"{path.parent}{os.sep}", "")


def origins(file: StudyFile) -> dict[str, tuple[Any, str]]:
    return {
        path: (value, origin.replace(f"{file.path.parent}{os.sep}", "")) for path, value, origin in file.provenance()
    }


def test_file_for_another_machine_keeps_its_variables_and_asks_none_of_this_one(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIDFD_STORE", "this machine's")
    file = load(write(STUDY + "storage: {ledger: 'postgresql://me:${WORD}@db.example/x'}\n"), environment=None)
    assert file.storage.ledger == "postgresql://me:${WORD}@db.example/x"
    assert file.storage.store == ".hidfd/store"
    assert load(write(), ["trial.data.test.path=${SHELF}/x"], environment=None).trial().data.test is not None


def test_value_is_taken_from_override_then_file_then_preset_then_default(write: Any) -> None:
    file = load(write(), ["trial.synthesis.num_images=7", "trial.generation.latent_dim=9"])
    trial = file.trial()
    quick = PRESETS["quick"]
    assert (trial.synthesis.num_images, trial.generation.latent_dim) == (7, 9)
    assert trial.generation.width == 16 != quick["generation"]["width"]
    assert trial.generation.target_images == quick["generation"]["target_images"]
    assert trial.generation.ema.ramp == quick["generation"]["ema"]["ramp"]
    assert trial.generation.adam_beta2 == 0.999


def test_provenance_says_where_every_value_came_from(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@tracking.example/?token=abc")
    file = load(write(), ["trial.collection={num_images: 7}", "trial.synthesis.num_images=8"], store="elsewhere")
    rows = origins(file)
    assert rows["trial.generation.width"] == (16, "study.yaml:12")
    assert rows["trial.generation.networks"] == ("light", "preset quick")
    assert rows["trial.generation.ema.ramp"][1] == "preset quick"
    assert rows["trial.generation.adam_beta2"] == (0.999, "default")
    assert rows["trial.collection.num_images"] == (7, "command line")
    assert rows["trial.collection.holdout_images"][1] == "preset quick"
    assert rows["trial.synthesis.num_images"] == (8, "command line")
    assert rows["storage.store"] == ("elsewhere", "command line")
    assert rows["storage.tracking"] == ("http://me:***@tracking.example/?***", "MLFLOW_TRACKING_URI")
    assert rows["storage.ledger"] == (".hidfd/ledger.db", "default")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ".hidfd/store"),
        ({"file": "from-file"}, "from-file"),
        ({"file": "from-file", "environment": "from-environment"}, "from-environment"),
        ({"environment": "from-environment", "override": "from-override"}, "from-override"),
        ({"environment": "from-environment", "override": "from-override", "argument": "argument"}, "argument"),
    ],
)
def test_store_is_found_by_precedence(
    write: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str
) -> None:
    if "environment" in given:
        monkeypatch.setenv("HIDFD_STORE", given["environment"])
    text = STUDY + (f"storage: {{store: {given['file']}}}\n" if "file" in given else "")
    overrides = [f"storage.store={given['override']}"] if "override" in given else []
    assert load(write(text), overrides, store=given.get("argument")).storage.store == expected


def test_material_paths_are_relative_to_the_file_and_expand_the_environment(
    write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHELF", "/shelf")
    file = load(write(), ["trial.data.validation.path=${SHELF}/held", "trial.data.test.path=sub/test"])
    data = file.trial().data
    assert data.candidates.path == str(tmp_path / "photos")
    assert data.validation is not None
    assert data.validation.path == "/shelf/held"
    assert data.test is not None
    assert data.test.path == str(tmp_path / "sub" / "test")


def test_missing_environment_variables_are_all_named_with_their_lines(write: Any) -> None:
    message = refusal(write(STUDY.replace("path: photos", "path: '${NO_SUCH}/${NOR_THIS}'")))
    assert "study.yaml:6: trial.data.candidates.path: the environment variable NO_SUCH is not set" in message
    assert "NOR_THIS" in message


def test_all_errors_are_told_at_once_with_their_lines(write: Any) -> None:
    text = STUDY.replace("    width: 16", "    widht: 16\n    latent_dim: 0\n    networks: lihgt")
    text += "  colection: {}\nserach: {}\nname: again\n"
    lines = refusal(write(text), "trial.distillation.batch_images=many", "trial.seeds").splitlines()
    assert "study.yaml:12: trial.generation.widht: unknown key; did you mean `width`?" in lines
    assert "study.yaml:13: trial.generation.latent_dim: expected greater than or equal to 1, found 0" in lines
    assert any(line.startswith("study.yaml:14:") and line.endswith("did you mean 'light'?") for line in lines)
    assert "study.yaml:15: trial.colection: unknown key; did you mean `collection`?" in lines
    assert "study.yaml:16: serach: unknown key; did you mean `search`?" in lines
    assert "study.yaml:17: name: is given twice, first in line 1; keep one" in lines
    assert any(line.startswith("command line: trial.distillation.batch_images: expected") for line in lines)
    assert any(line.startswith("command line: 'trial.seeds' is no override") for line in lines)
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trial.generation.widht=8", "command line: trial.generation.widht: unknown key; did you mean `width`?"),
        ("trail.generation.width=8", "command line: trail: unknown key; did you mean `trial`?"),
        ("generation.width=8", "command line: generation: unknown key; did you mean `trial.generation`?"),
        ("trial.generation.width.of=8", "trial.generation.width is a value (16) with no keys in it"),
        ("trial.generation.width=true", "trial.generation.width: expected a number, found true"),
        ("trial.generation.width=[1", "not valid YAML"),
        ("trial.generation.adam_beta1=.nan", "expected a finite number"),
        ("trial.checkpoint_every_seconds='1e999'", "trial.checkpoint_every_seconds: expected a finite number"),
        (f"trial.synthesis.num_images='{'1' * 400}'", "synthesis.num_images: expected a whole number of at most 18"),
        (f"trial.generation.snapshots_at_images=['{'1' * 400}']", "at_images: expected a whole number of at most 18"),
        ("trial.generation=3", "trial.generation: expected a section with keys of its own, found 3"),
        ("trial.generation.smoothing=", "trial.generation.smoothing: expected a section with keys of its own"),
        ("trial.teacher.checkpoint.sha256=abc", "expected 64 digits 0-9a-f, found 'abc'"),
        ("trial.teacher.mean=0.5", "trial.teacher.mean: expected a list, found 0.5"),
        ("trial.teacher.architecture=resnet9", "trial.teacher.architecture: unknown architecture 'resnet9'"),
        ("trial.data.channels=1", "study.yaml:9: trial.teacher.mean: 3 values for 1 channel"),
        ("trial.preset=quik", "did you mean 'quick'?"),
        ("trial.teacher.architecture=densenet", "'densenet'; known: resnet8, resnet14"),
        ("name=../tiny", "name: found '../tiny'"),
        (f"name={'x' * 101}", "name: has 101 characters; expected at most 100"),
        ("=3", "'=3' is no override"),
    ],
)
def test_wrong_override_is_told_by_its_path(write: Any, override: str, words: str) -> None:
    path = write()
    with pytest.raises(ConfigError):
        load(path, [override]).trial()
    assert words in refusal(path, override)


def test_scalars_are_read_as_people_mean_them(write: Any) -> None:
    trial = load(
        write(STUDY + "    smoothing: {mode: off}\n"),
        [
            "trial.distillation.weight_decay=1e-3",
            "trial.synthesis.num_images=50_000",
            "trial.data.class_names=[no,on,2]",
        ],
    )
    assert trial.trial().generation.smoothing.mode == "off"
    assert trial.trial().distillation.weight_decay == 0.001
    assert trial.trial().synthesis.num_images == 50_000
    assert trial.yaml_tree.get(("trial", "data", "class_names")) == ["no", "on", 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: tiny\ntrial: {data: [\n", "study.yaml:3: not valid YAML"),
        ("name: tiny\n\ttrial: 1\n", "study.yaml:2: not valid YAML"),
        ("name: !!python/object:os.system {}\n", "study.yaml:1:"),
        ("a: &a\n  b: *a\n", "study.yaml:1: not valid YAML: an alias inside the node that it refers to"),
        ("- name\n", "expected sections"),
        ("", "name: missing"),
        ("name: tiny\n", "trial: missing"),
        ("name: tiny\ntrial: {}\n", "trial.data: missing"),
    ],
)
def test_file_that_is_no_study_is_refused_with_the_line(write: Any, text: str, words: str) -> None:
    assert words in refusal(write(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trial: " + "[" * 3000 + "]" * 3000, "study.yaml:1: more than 40 sections and lists inside each other"),
        ("trial: " + "{a: " * 3000 + "}" * 3000, "study.yaml:1: more than 40 sections and lists inside each other"),
        ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 99)), "inside each other"),
        ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)), "50,000 values"),
        ("a0: &a0 {b: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 30)), "50,000"),
        ("# " + "x" * 2_000_000, "study.yaml: has more than 1,000,000 bytes, so it is no study file"),
        ("name: !!bool maybe\n", "study.yaml:1: 'maybe' is no !!bool"),
        ("name: !!int ''\n", "study.yaml:1: '' is no !!int"),
        ("name: !!timestamp soon\n", "study.yaml:1: the tag !!timestamp is not known here"),
        ("name: !!set {a, b}\n", "study.yaml:1: the tag !!set is not known here"),
        ("name: " + "9" * 5000, "study.yaml:1: name: expected a whole number of at most 18 digits, or text in quotes"),
    ],
    ids=lambda value: value[:20],
)
def test_file_that_no_program_could_read_through_is_refused_with_the_line(write: Any, text: str, words: str) -> None:
    assert words in refusal(write(text))


def test_tags_of_plain_values_mean_what_they_say(write: Any) -> None:
    file = load(write(STUDY + "study: {a: !!float 3, b: !!str 3, c: !!int '3', d: !!null ''}\n"))
    assert file.yaml_tree.get(["study"]) == {"a": 3.0, "b": "3", "c": 3, "d": None}
    assert isinstance(file.yaml_tree.get(["study", "a"]), float)


@pytest.mark.parametrize(
    "setting", ["storage.store", "storage.ledger", "storage.results", "trial.data.candidates.path"]
)
@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("~nobody-of-this-name/x", "there is no user"),
        ('"a\\0b"', "holds a NUL character"),
        ("s3:/bucket/x", "is no path; what lies on S3 is written s3://BUCKET/PREFIX"),
    ],
)
def test_path_that_nothing_can_have_is_refused(write: Any, setting: str, path: str, why: str) -> None:
    assert f"command line: {setting}: " in (said := refusal(write(), f"{setting}={path}"))
    assert why in said


def test_path_with_half_of_a_character_is_refused(write: Any) -> None:
    why = "half of a character, which no path does"
    assert why in refusal(write(), 'trial.data.candidates.path="a\\ud800"')
    assert why in refusal(write(STUDY.replace("path: photos", 'path: "a\\ud800"')))


def test_variable_that_names_no_place_is_refused_by_its_name(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDFD_LEDGER", "~nobody-of-this-name/ledger.db")
    assert "HIDFD_LEDGER: storage.ledger: '~nobody-of-this-name/ledger.db'" in refusal(write())


def test_study_file_that_is_not_there_is_told_which_are(tmp_path: Path) -> None:
    (tmp_path / "fashion.yaml").write_text("")
    assert "did you mean fashion.yaml?" in refusal(tmp_path / "fashoin.yaml")
    assert "no such study file; there: fashion.yaml" in refusal(tmp_path / "cifar.yaml")
    assert "no such study file; the working directory" in refusal(tmp_path / "nowhere" / "cifar.yaml")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trial.preset=fast", "expected 'paper' or 'quick', found 'fast'"),
        ("trial.preset=qiuck", "found 'qiuck'; did you mean 'quick'?"),
        ("trial.generation.networks=resnet", "expected 'residual' or 'light', found 'resnet'"),
    ],
)
def test_choice_that_does_not_exist_is_told_all_that_do(write: Any, override: str, words: str) -> None:
    assert words in refusal(write(), override)


def test_override_of_thousands_of_sections_is_refused(write: Any) -> None:
    assert "no setting lies 3001 sections deep" in refusal(write(), "trial." + "a." * 2999 + "b=1")


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "studdy.yaml: no such study file" in refusal(tmp_path / "studdy.yaml")
    assert "cannot be read" in refusal(tmp_path)


def test_anchors_and_merges_keep_their_lines(write: Any) -> None:
    text = STUDY + "  distillation: &student {batch_images: 32, widht: 3}\nstudy:\n  <<: *student\n  batch_images: 64\n"
    file = load(write(text))
    assert file.yaml_tree.get(["study"]) == {"batch_images": 64, "widht": 3}
    assert file.yaml_tree.where(("study", "batch_images")).endswith("study.yaml:16")
    assert "study.yaml:13: trial.distillation.widht" in refusal(file.path)


class Range(BaseModel, extra="forbid"):
    low: float
    high: float


class Searched(RootModel[dict[str, Range]]):
    pass


def test_free_section_is_checked_by_its_package_and_may_have_dots_in_its_keys(write: Any) -> None:
    path = write(STUDY + "search:\n  generation.width: {low: 1, high: 2}\n")
    overrides = ["search.generation.width.low=1.5", "search.distillation.inflation={low: 3, high: 4}"]
    searched = load(path, overrides).section("search", Searched).root
    assert searched == {
        "generation.width": Range(low=1.5, high=2),
        "distillation.inflation": Range(low=3, high=4),
    }
    with pytest.raises(ConfigError) as caught:
        load(path, ["search.generation.width.hihg=3"]).section("search", Searched)
    assert "search.generation.width.hihg: unknown key; did you mean `high`?" in str(caught.value)
    assert load(write()).section("search", Searched).root == {}


def test_json_schema_is_whole(write: Any) -> None:
    schema = json_schema()
    text = json.dumps(schema)
    for reference in set(text.split('"$ref": "#/$defs/')[1:]):
        assert reference.split('"')[0] in schema["$defs"]
    assert set(schema["$defs"]["TrialConfig"]["properties"]) == set(TrialConfig.model_fields)
    assert "Channels (light" in text


def test_password_of_an_address_comes_from_the_environment_and_needs_no_escaping(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "p@ss/w:rd")
    file = load(write(STUDY + "storage: {ledger: 'postgresql://me:${WORD}@db.example/x'}\n"))
    assert file.storage.ledger == "postgresql://me:p%40ss%2Fw%3Ard@db.example/x"
    monkeypatch.setenv("FOLDER", "a@b/c")
    assert load(write(), ["storage.ledger=${FOLDER}/x.db"]).storage.ledger == "a@b/c/x.db"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:s3cret@db.example/x",
        "postgresql://me:${WORD}s3cret@h/x",
        "postgresql://db.example/x?user=me&password=s3cret",
        "postgresql://db.example/x?sslpassword=s3cret",
    ],
)
def test_password_in_plain_is_refused_and_not_repeated(
    write: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "word")
    for text, overrides in (
        (STUDY + f"storage: {{ledger: '{address}'}}\n", []),
        (STUDY, [f"storage.ledger={address}"]),
    ):
        with pytest.raises(ConfigError, match=r"storage\.ledger: holds a password in plain text") as refused:
            load(write(text), overrides)
        assert "s3cret" not in str(refused.value)


def test_password_in_a_query_may_come_from_the_environment(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORD", "word")
    file = load(write(), ["storage.ledger=postgresql://db.example/x?user=me&password=${WORD}"])
    assert file.storage.ledger == "postgresql://db.example/x?user=me&password=word"


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("resources.cpus_per_worker=0.5", "expected a valid integer"),
        ("resources.gpus_per_worker=1.5", "more than one GPU must be a whole number"),
    ],
)
def test_resources_that_cannot_be_handed_out_are_refused(write: Any, asked: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load(write(), [asked])


def test_secrets_of_uris_are_redacted() -> None:
    assert redacted("postgresql://me:p@ss@db.example/x?sslkey=y") == "postgresql://me:***@db.example/x?***"
    assert redacted("postgresql://me:p/ss@db.example/x") == "postgresql://me:***@db.example/x"
    assert redacted("http://tracking.example:5000/me@x") == "http://tracking.example:5000/me@x"
    assert redacted("s3://bucket/prefix") == "s3://bucket/prefix"
    assert redacted("plain/folder") == "plain/folder"


@pytest.mark.parametrize(
    "module", ["hidfd", "hidfd.config.schema", "hidfd.pipeline.graph", "hidfd.config.study_file", "hidfd.__main__"]
)
def test_plan_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'mlflow')))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_help_of_loading_shows_no_variable_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDFD_TEST_PASSWORD", "xyzzy")
    assert "xyzzy" not in str(inspect.signature(load))
