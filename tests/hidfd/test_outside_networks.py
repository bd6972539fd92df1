"""Networks that are not in the table in whole trials: torchvision's, timm's, and those of the user's own files."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hidfd.config.paths import with_values
from hidfd.config.schema import Material, TrialConfig
from hidfd.config.study_file import load
from hidfd.data.identify import identify
from hidfd.data.sources import content_sha256
from hidfd.errors import ConfigError, InputError
from hidfd.export import deployed_student
from hidfd.networks.build import build_backbone
from hidfd.networks.teacher import build_teacher_backbone
from hidfd.pipeline import network_sizes
from hidfd.pipeline.costs import expected_bytes
from hidfd.pipeline.graph import kept_digests, plan
from hidfd.pipeline.network_sizes import remember_code
from hidfd.pipeline.observer import Observer
from hidfd.store.store import Store
from hidfd.trial import import_all, run_trial

OWN = textwrap.dedent(
    """
    from dataclasses import dataclass

    import torch
    from torch import nn


    @dataclass
    class Widths:
        first: int = 4


    class Net(nn.Module):
        def __init__(self, num_classes, channels):
            super().__init__()
            width = Widths().first
            self.layers = nn.Sequential(
                nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 8, 3, 2, 1)
            )
            self.last = nn.Linear(8, num_classes)

        def forward(self, x):
            return self.last(torch.relu(self.layers(x)).mean((2, 3)))


    def make(num_classes, channels):
        return Net(num_classes, channels)
    """
)


class Notes(Observer):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def own_file(folder: Path, text: str = OWN, name: str = "nets.py") -> Material:
    path = folder / name
    path.write_text(text)
    material = Material(path=str(path), sha256=content_sha256(path))
    assert material.sha256 is not None
    remember_code(material.sha256, text)
    return material


@pytest.fixture(autouse=True)
def _knows_no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what tests before have learnt of networks."""
    monkeypatch.setattr(network_sizes, "_known", {})
    monkeypatch.setattr(network_sizes, "_code", {})


def with_networks(config: TrialConfig, folder: Path, teacher: str, student: str) -> TrialConfig:
    """Return the trial with other networks, and a checkpoint of such a teacher."""
    values: dict[str, Any] = {"teacher.architecture": teacher, "teacher.width": None, "distillation.width": None}
    values["distillation.architecture"] = student
    for section, name in (("teacher", teacher), ("distillation", student)):
        if ".py:" in name:
            values[f"{section}.code"] = own_file(folder).model_dump()
    config = with_values(config, values)
    torch.manual_seed(0)
    state = build_teacher_backbone(config).published.state_dict()
    path = folder / "outside.safetensors"
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return with_values(config, {"teacher.checkpoint.path": str(path), "teacher.accept": True})


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("torchvision:shufflenet_v2_x0_5", "torchvision:mobilenet_v3_small"),
        ("timm:test_resnet", "timm:test_efficientnet.r160_in1k"),
        ("nets.py:make", "nets.py:make"),
    ],
)
def test_networks_from_elsewhere_go_through_a_whole_trial(
    teacher: str, student: str, trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    config = with_networks(trial_config, tmp_path, teacher, student)
    assert not plan(identify(config, store))["distillation"].operations, "known before it was built"
    notes = Notes()
    result = run_trial(config, store, device="cpu", observer=notes)
    assert 0 <= result.metrics["agreement"] <= 1
    assert any(teacher in line and "parameters, " in line for line in notes.lines)
    assert result.stages["distillation"].operations > 0
    assert expected_bytes(result.config)["teacher"] > 0
    network_sizes._known.clear()
    network_sizes._code.clear()  # as in another process, which has the store alone
    if config.teacher.code is not None:
        Path(str(config.teacher.code.path)).unlink()
    student_network = deployed_student(result.config, store)
    assert student_network(torch.rand(2, 1, 28, 28)).shape == (2, 3)
    again = run_trial(result.config, store, device="cpu")
    assert again.seconds == result.seconds
    assert set(again.reused) >= {"teacher", "generation", "distillation", "evaluation"}
    assert _sizes(store) <= kept_digests(result.config)


def _sizes(store: Store) -> set[str]:
    return {entry.digest for entry in store.list() if entry.stage == "network_size"}


def test_trained_teachers_may_be_networks_from_elsewhere(
    trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    config = with_networks(trial_config, tmp_path, "timm:test_resnet", "resnet8")
    images = {"path": config.data.validation.path if config.data.validation else None}
    train = {"images": images, "target_images": 32, "batch_images": 16}
    values = {"teacher.checkpoint": None, "teacher.mean": None, "teacher.std": None, "teacher.train": train}
    settings = config.model_dump()
    for name, value in values.items():
        settings["teacher"][name.partition(".")[2]] = value
    result = run_trial(TrialConfig.model_validate(settings), store, device="cpu", until="teacher")
    assert result.stages["teacher"].operations > 0


def test_a_file_of_networks_is_known_by_its_content_and_the_name_of_the_function(
    trial_config: TrialConfig, tmp_path: Path
) -> None:
    config = with_networks(trial_config, tmp_path, "nets.py:make", "resnet8")
    known = plan(identify(config))
    moved = own_file(tmp_path, name="other.py").model_dump()
    renamed = with_values(config, {"teacher.code": moved, "teacher.architecture": "other.py:make"})
    assert plan(identify(renamed))["teacher"].digest == known["teacher"].digest
    changed = own_file(tmp_path, text=OWN.replace("first: int = 4", "first: int = 5")).model_dump()
    other = plan(identify(with_values(config, {"teacher.code": changed})))
    assert other["teacher"].digest != known["teacher"].digest
    assert other["distillation"].digest != known["distillation"].digest


def test_another_network_takes_the_place_of_an_own_one(trial_config: TrialConfig, tmp_path: Path) -> None:
    config = with_networks(trial_config, tmp_path, "resnet8", "nets.py:make")
    other = with_values(config, {"distillation.architecture": "torchvision:resnet18"})
    assert other.distillation.code is None


def test_import_brings_files_and_sizes_of_networks_into_the_store_without_training(
    trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    config = with_networks(trial_config, tmp_path, "nets.py:make", "torchvision:shufflenet_v2_x0_5")
    imported = import_all(config, store, Observer())
    network_sizes._known.clear()
    assert plan(identify(imported, store))["distillation"].operations > 0
    assert {entry.stage for entry in store.list()} == {"import", "network_size", "teacher"}


def test_a_study_file_names_the_file_of_a_network_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(OWN)
    (tmp_path / "study.yaml").write_text(
        textwrap.dedent(
            """
            name: own
            trial:
              data: {candidates: {path: photos}, num_classes: 3}
              teacher:
                {architecture: nets.py:make, checkpoint: {path: teacher.pt}, mean: [.5, .5, .5], std: [.5, .5, .5]}
              distillation: {architecture: "torchvision:resnet18"}
            """
        )
    )
    trial = load(tmp_path / "study.yaml").trial()
    assert trial.teacher.architecture == "nets.py:make"
    assert trial.teacher.code == Material(path=str(tmp_path / "nets.py"))
    override = "trial.distillation.architecture=../nets.py:make"
    student = load(tmp_path / "study.yaml", [override]).trial().distillation
    assert student.code == Material(path=str(tmp_path / ".." / "nets.py"))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet50x", "unknown architecture 'resnet50x'; did you mean resnet50?; or torchvision:NAME, timm:NAME"),
        ("torchvison:resnet50", "or torchvision:NAME"),
        ("nets.py:make", "belongs into the section `trial:` of the study file"),
    ],
)
def test_a_plan_refuses_names_without_a_known_form(architecture: str, message: str, trial_config: TrialConfig) -> None:
    with pytest.raises((ConfigError, ValueError), match="architecture") as raised:
        with_values(trial_config, {"distillation.architecture": architecture, "distillation.width": None})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_this_name\n", "line 1: ModuleNotFoundError: .*one file, which may import installed"),
        ("def make(:\n", "line 1: SyntaxError"),
        ("def build(num_classes, channels): ...\n", "no function make; it has build"),
        ("def make(classes): ...\n", "called with num_classes=K and channels=C"),
        ("def make(num_classes, channels): return 7\n", "returned int; expected a torch.nn.Module"),
        ("def make(num_classes, channels):\n    return 1 / 0\n", "line 2: ZeroDivisionError"),
    ],
)
def test_an_own_network_that_cannot_be_built_says_where_in_its_file(text: str, message: str, tmp_path: Path) -> None:
    code = own_file(tmp_path, text)
    with pytest.raises(InputError, match=message):
        build_backbone("nets.py:make", num_classes=3, channels=1, code=code)


def test_a_name_that_a_collection_lacks_gets_the_nearest_one() -> None:
    with pytest.raises(InputError, match="did you mean torchvision:resnet50"):
        build_backbone("torchvision:resnt50", num_classes=3, channels=3)
    with pytest.raises(InputError, match="did you mean timm:resnet50"):
        build_backbone("timm:resnt50.a1_in1k", num_classes=3, channels=3)
