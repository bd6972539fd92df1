"""Every study file in the repository can be run unchanged, and the shipped teacher is as its card describes it."""

import json
import re
from pathlib import Path

import pytest
import torch

from hidfd.config import study_file as studyfile
from hidfd.config.paths import with_values
from hidfd.data.identify import identify
from hidfd.data.image_set import open_images
from hidfd.distributed.device import resolve_device
from hidfd.networks.teacher import load_teacher
from hidfd.pipeline.graph import plan
from hidfd.pipeline.observer import Observer
from hidfd.stages.context import StageContext
from hidfd.stages.imports.images import import_images
from hidfd.stages.imports.weights import import_teacher
from hidfd.store.store import Store
from studies.schema import schema
from tune.study.check import check_study
from tune.study.config import SearchConfig, StudyConfig

FILES = sorted(Path("studies").glob("*.yaml"))


def test_published_schema_is_that_of_the_code() -> None:
    published = json.loads(Path("studies/study.schema.json").read_text())
    assert published == schema(), "run `python -m studies.schema > studies/study.schema.json`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_study_file_is_valid_with_every_variant(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CIFAR10", "COLLECTED"):
        monkeypatch.setenv(name, "/data")
    file = studyfile.load(path)
    trial = file.trial()
    assert file.name == path.stem
    study = file.section("study", StudyConfig)
    for values in study.variants.values():
        with_values(trial, values)
    search = file.section("search", SearchConfig)
    if search or study.variants:
        check_study(str(path))


def test_quickstart_and_fashion_need_nothing_that_the_repository_lacks(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for name in ("quickstart", "fashion"):
        trial = studyfile.load(f"studies/{name}.yaml").trial()
        assert trial.data.candidates_in_domain, "the pool shows images of the teacher's own data set: say so"
        plan(identify(trial, store))


def test_shipped_teacher_is_as_small_and_as_accurate_as_its_card_says(tmp_path: Path) -> None:
    path = Path("studies/data/fashion-teacher.safetensors")
    assert path.stat().st_size <= 1_000_000
    card = path.with_suffix(".md").read_text()
    assert "python -m hidfd run studies/fashion-teacher.yaml --until teacher" in card
    stated = float(re.search(r"(\d\d\.\d+) %", card)[1])

    store, device = Store.open(tmp_path / "store"), resolve_device("cpu", "fp32")
    config = identify(studyfile.load("studies/quickstart.yaml").trial(), store)
    stages = plan(config)
    assert config.data.validation is not None
    validation_context, teacher_context = (
        StageContext(stages[role], config, store, device, Observer()) for role in ("validation", "teacher")
    )
    validation = open_images(import_images(validation_context))
    teacher = load_teacher(import_teacher(teacher_context), config, device)
    predicted = teacher.ask_all(torch.from_numpy(validation.pixels), device).logits.argmax(dim=1)
    accuracy = (predicted == torch.from_numpy(validation.required_labels)).double().mean().item()
    assert 100 * accuracy == pytest.approx(stated, abs=0.06)
