"""Networks that are not in the table in whole trials: torchvision's, timm's, and those of the user's own files."""

import sys
import textwrap
from collections.abc import Iterator
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
from hidfd.distributed.device import Device
from hidfd.distributed.process_group import ProcessGroup
from hidfd.errors import ConfigError, InputError, Stopped, StoreError
from hidfd.export import deployed_student
from hidfd.networks.build import build_backbone
from hidfd.networks.student import build_student_backbone
from hidfd.networks.teacher import build_teacher_backbone
from hidfd.pipeline import network_sizes
from hidfd.pipeline.costs import expected_bytes
from hidfd.pipeline.graph import kept_digests, plan
from hidfd.pipeline.known_networks import recall_networks
from hidfd.pipeline.network_sizes import remember_code
from hidfd.pipeline.observer import Observer
from hidfd.store.store import Store
from hidfd.trial import import_all, run_trial
from tests.hidfd.interruptions import Killer, Stopper, left_by, with_own_teacher

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
    network_sizes._known.clear()  # as in another process, which has the store alone
    network_sizes._code.clear()
    for name in [name for name in sys.modules if name.startswith("hidfd_own_")]:
        del sys.modules[name]
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


def test_a_tag_of_timm_names_weights_and_no_other_network(trial_config: TrialConfig, tmp_path: Path) -> None:
    config = with_networks(trial_config, tmp_path, "resnet8", "timm:test_resnet")
    tagged = with_values(config, {"distillation.architecture": "timm:test_resnet.r160_in1k"})
    assert plan(identify(tagged))["distillation"].digest == plan(identify(config))["distillation"].digest


def test_another_network_takes_the_place_of_an_own_one(trial_config: TrialConfig, tmp_path: Path) -> None:
    config = with_networks(trial_config, tmp_path, "resnet8", "nets.py:make")
    other = with_values(config, {"distillation.architecture": "torchvision:resnet18"})
    assert other.distillation.code is None
    with pytest.raises(ValueError, match="belongs into the section `trial:`"):
        with_values(config, {"distillation.architecture": "other.py:make"})


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
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit"),
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


@pytest.mark.parametrize("ending", [Stopper, Killer])
@pytest.mark.parametrize("stage", ["teacher", "distillation"])
def test_layers_that_draw_are_the_same_after_a_stop(
    stage: str,
    ending: type[Stopper],
    trial_config: TrialConfig,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = own_file(tmp_path, OWN.replace("nn.ReLU(), nn.Conv2d", "nn.Dropout(0.5), nn.Conv2d")).model_dump()
    config = with_values(with_own_teacher(trial_config, world), {"teacher.width": None, "distillation.width": None})
    config = with_values(
        config,
        {f"{stage}.architecture": "nets.py:make", f"{stage}.code": code, "synthesis.num_images": 0},
    )
    whole, halves = (Store.open(str(tmp_path / name), writes=True) for name in ("whole", "halves"))
    expected, _ = left_by(run_trial(config, whole, device="cpu", until=stage), whole, stage)
    ticks: Iterator[float] = iter(range(10**6))
    with monkeypatch.context() as patched:
        patched.setattr("hidfd.training.loop.time.monotonic", lambda: float(next(ticks)))  # a checkpoint at each step
        with pytest.raises((Stopped, KeyboardInterrupt)):
            run_trial(config, halves, device="cpu", until=stage, observer=ending(stage, 2))
    torch.rand(7)  # another state of the global generator
    resumed, _ = left_by(run_trial(config, halves, device="cpu", until=stage), halves, stage)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def test_an_own_teacher_without_a_bias_in_its_last_layer_shares_it(
    trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    text = OWN.replace("nn.Linear(8, num_classes)", "nn.Linear(8, num_classes, bias=False)")
    code = own_file(tmp_path, text)
    config = with_values(trial_config, {"teacher.width": None})
    config = with_values(config, {"teacher.architecture": "nets.py:make", "teacher.code": code.model_dump()})
    torch.manual_seed(0)
    path = tmp_path / "own.safetensors"
    safetensors.torch.save_file(build_teacher_backbone(config).published.state_dict(), path)
    config = with_values(config, {"teacher.checkpoint.path": str(path), "teacher.accept": True})
    assert run_trial(config, store, device="cpu").metrics["agreement"] >= 0


def test_a_file_in_the_store_that_is_not_the_studys_is_not_run(
    trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    config = identify(with_networks(trial_config, tmp_path, "resnet8", "nets.py:make"))
    stage = plan(config)["student_code"]
    with store.writer(stage.name, stage.digest, stage.identity) as writer:  # whoever may write there can do this
        writer.path("network.py").write_text("raise SystemExit\n")
        writer.commit({}, device=None)
    with pytest.raises(StoreError, match="is not the file that the study names"):
        recall_networks(config, store)


def test_operations_of_attention_are_counted(trial_config: TrialConfig, store: Store, tmp_path: Path) -> None:
    text = """
        from torch import nn
        class Net(nn.Module):
            def __init__(self, num_classes, channels):
                super().__init__()
                self.patches = nn.Conv2d(channels, 16, 4, 4)
                self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)
                self.head = nn.Linear(16, num_classes)
            def forward(self, x):
                return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
        """
    code = own_file(tmp_path, textwrap.dedent(text))
    config = with_values(trial_config, {"distillation.width": None})
    config = with_values(config, {"distillation.architecture": "nets.py:Net", "distillation.code": code.model_dump()})
    import_all(config, store, Observer())
    size = network_sizes.network_size(identify(config, store), "distillation")
    assert size is not None
    tokens, width = 49, 16
    linear = 2 * tokens * (4 * width**2 + 2 * width * 32 + width * 16)
    assert size.forward_flops >= linear


def test_batch_norms_that_cannot_be_synchronised_are_refused_on_several_processes() -> None:
    network = build_backbone("timm:test_efficientnet", num_classes=3, channels=1)
    two = Device(torch.device("cpu"), "fp32", ProcessGroup(0, 2))
    with pytest.raises(ConfigError, match="BatchNormAct2d: .*start one process"):
        two.trained(network)


def test_a_tag_that_timm_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="timm:test_resnet.nonsense"):
        build_backbone("timm:test_resnet.nonsense", num_classes=3, channels=3)


@pytest.mark.parametrize("text", ["\ufeff" + OWN, OWN], ids=["with a byte order mark", "without"])
def test_files_of_networks_are_read_as_python_reads_them(
    text: str, trial_config: TrialConfig, store: Store, tmp_path: Path
) -> None:
    config = with_networks(trial_config, tmp_path, "resnet8", "nets.py:make")
    code = own_file(tmp_path, text, name="other.py").model_dump()
    config = with_values(config, {"distillation.code": code, "distillation.architecture": "other.py:make"})
    network_sizes._code.clear()
    import_all(config, store, Observer())
    assert build_student_backbone(config).feature_width == 8
