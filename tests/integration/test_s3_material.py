"""Images and a teacher on a real S3 server: the trial of the same files in a folder, and clear messages."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.conftest import Workplace, tiny_study
from tests.integration.s3 import S3Server

pytestmark = pytest.mark.integration

SHOWN = "s3://artifacts/material"
PHOTOS, HELD, TEACHER = "data.candidates", "data.validation", "teacher.checkpoint"
NAMES = {PHOTOS: "photos", HELD: "held", TEACHER: "teacher.safetensors"}


@pytest.fixture
def on_s3(tiny: Workplace, s3_server: S3Server) -> Workplace:
    """The folder of `tiny`, whose photos, labelled photos and teacher are on S3, and as files in `disk/`."""
    (tiny.folder / "disk").mkdir()
    for name in NAMES.values():
        shutil.move(tiny.folder / name, tiny.folder / "disk" / name)
    shutil.copytree(tiny.folder / "disk", s3_server.bucket / "material")
    tiny.write(study_of(SHOWN))
    tiny.write(study_of("disk"), file="disk.yaml")
    return tiny


def study_of(folder: str, **known: str) -> dict[str, Any]:
    """Return the tiny study with its material below a folder or an address, and the content hashes that are known."""
    tree = tiny_study()
    for setting, name in NAMES.items():
        section, key = setting.split(".")
        tree["trial"][section][key] = {"path": f"{folder}/{name}"} | (
            {"sha256": known[setting]} if setting in known else {}
        )
    return tree


def digests(place: Workplace, file: str) -> dict[str, tuple[str, bool]]:
    """Return role -> digest of every stage of a trial, and whether it is built."""
    rows = json.loads(place.run("hidfd", "stages", file, "--json").stdout)
    return {row["stage"]: (row["digest"], row["built"]) for row in rows}


def test_trial_is_that_of_the_same_files_in_a_folder(on_s3: Workplace) -> None:
    looked = on_s3.run("hidfd", "run", "study.yaml", "--dry-run")
    assert looked.returncode == 0, looked.stderr
    assert f"{SHOWN}/photos" in looked.stdout
    done = on_s3.run("hidfd", "run", "study.yaml")
    assert done.returncode == 0, done.stderr
    built = digests(on_s3, "study.yaml")
    assert all(is_built for _, is_built in built.values())
    assert digests(on_s3, "disk.yaml") == built


def test_what_was_imported_is_not_asked_for_again(on_s3: Workplace, s3_server: S3Server) -> None:
    imported = on_s3.run("hidfd", "import", "study.yaml", "--json")
    assert imported.returncode == 0, imported.stderr
    known = json.loads(imported.stdout)
    assert known == json.loads(on_s3.run("hidfd", "import", "disk.yaml", "--json").stdout)
    s3_server.stop()
    on_s3.write(study_of(SHOWN, **known))
    done = on_s3.run("hidfd", "run", "study.yaml")
    assert done.returncode == 0, done.stderr


def test_study_reads_its_material_from_s3(on_s3: Workplace, s3_server: S3Server) -> None:
    tree = study_of(SHOWN)
    tree["study"] = {"num_students": 1, "num_finalists": 1, "controls": {"plain_kd": False, "synthetic_only": False}}
    tree["search"] = {"distillation.inflation": {"type": "float", "low": 1, "high": 10}}
    on_s3.write(tree)
    for verb in (["check"], ["plan"], ["run", "--engine", "local"]):
        done = on_s3.run("tune", verb[0], "study.yaml", *verb[1:])
        assert done.returncode == 0, done.stderr
        assert s3_server.secret not in done.stdout + done.stderr


def test_lists_patterns_and_large_shards_are_read_too(on_s3: Workplace, s3_server: S3Server) -> None:
    material = s3_server.bucket / "material"
    images = [path.read_bytes() for path in sorted((material / "photos").iterdir())]
    for shard in range(2):
        table = pa.table({"image": images[shard::2]})
        pq.write_table(table, material / f"train-{shard:05d}-of-00002.parquet")
    rows = "".join(f"photos/{path.name}\n" for path in sorted((material / "photos").iterdir()))
    (material / "list.csv").write_text(f"path\n{rows}", encoding="utf-8")
    for name in ("train-*.parquet", "list.csv", "photos/"):
        done = on_s3.run("hidfd", "run", "study.yaml", "--until", "collection", f"trial.{PHOTOS}.path={SHOWN}/{name}")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://elsewhere/photos", "s3://elsewhere/photos: cannot be read (there is no such bucket)"),
        (f"{SHOWN}/nowhere", f"{SHOWN}/nowhere: no such file or folder; expected a folder of images, or Parquet"),
        (f"{SHOWN}/*.parquet", f"{SHOWN}/*.parquet: no Parquet file matches; found 3 files"),
        (f"{SHOWN}/held/class0/000.png", "neither a folder nor Parquet"),
        ("s3:/artifacts/material/photos", "is no path; what lies on S3 is written s3://BUCKET/PREFIX"),
    ],
)
def test_what_is_not_there_is_one_clear_message(on_s3: Workplace, path: str, said: str) -> None:
    done = on_s3.run("hidfd", "run", "study.yaml", "--until", "collection", f"trial.{PHOTOS}.path={path}")
    assert done.returncode in (2, 3), done.stdout
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert f"trial.{PHOTOS}" in line
    assert said in line


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "access is denied; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "wrong"}, "access is denied; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "access is denied; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set",
        ),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer: "),
        ({"AWS_ENDPOINT_URL": "http://nowhere.invalid"}, "http://nowhere.invalid does not answer: "),
    ],
)
def test_refusal_is_one_clear_message_within_seconds(
    on_s3: Workplace, s3_server: S3Server, environment: dict[str, str], said: str
) -> None:
    on_s3.write(study_of(SHOWN, **dict.fromkeys((HELD, TEACHER), "a" * 64)))
    started = time.monotonic()
    done = on_s3.run("hidfd", "import", "study.yaml", **environment)
    assert done.returncode == 3, done.stdout + done.stderr
    assert time.monotonic() - started < 30
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: trial.{PHOTOS}.path: {SHOWN}/photos: cannot be read ({said}")
    assert s3_server.secret not in line


def test_study_file_is_written_for_what_is_on_s3(on_s3: Workplace) -> None:
    given = (
        "--teacher",
        f"{SHOWN}/teacher.safetensors",
        "--images",
        f"{SHOWN}/photos",
        "--validation",
        f"{SHOWN}/held",
    )
    done = on_s3.run("hidfd", "new", "new.yaml", *given)
    assert done.returncode == 0, done.stderr
    assert f'path: "{SHOWN}/photos"' in Path(on_s3.folder, "new.yaml").read_text(encoding="utf-8")
    assert on_s3.run("hidfd", "run", "new.yaml", "--dry-run").returncode == 0
