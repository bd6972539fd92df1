"""`python -m hidfd new`: from a teacher's weights and a folder of photos to a study file that runs."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch import Tensor

from hidfd.__main__ import main
from hidfd.config import study_file
from hidfd.config.schema import TrialConfig
from hidfd.networks.build import build_backbone


def photos(folder: Path, count: int, sides: tuple[int, ...] = (32,), *, is_grey: bool = False) -> Path:
    """Make photos of random pixels below 128, of these sides in turn."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for number in range(count):
        side = sides[number % len(sides)]
        pixels = draws.integers(0, 128, (side, side, 1 if is_grey else 3), dtype=np.uint8)
        Image.fromarray(pixels.repeat(3, axis=2) if is_grey else pixels).save(folder / f"{number}.png")
    return folder


def weights(path: Path, architecture: str, num_classes: int = 10, channels: int = 3, **settings: Any) -> Path:
    """Save a state dict of a network as `rename` and `wrap` would have it."""
    rename: Callable[[str], str] = settings.pop("rename", str)
    wrap: Callable[[dict[str, Tensor]], Any] = settings.pop("wrap", dict)
    torch.manual_seed(0)
    network = build_backbone(architecture, num_classes=num_classes, channels=channels, **settings)
    torch.save(wrap({rename(name): tensor for name, tensor in network.published.state_dict().items()}), path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new(*words: str) -> TrialConfig:
    """Run `new` and read the study file that it writes."""
    assert main(["new", *words]) == 0
    file = words[0] if not words[0].startswith("-") else "study.yaml"
    return study_file.load(file).trial()


GIVEN = ("--teacher", "teacher.pt", "--images", "photos")


def test_checkpoint_in_the_names_of_cmi_becomes_a_trial_that_names_everything(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(name: str) -> str:
        inside = re.sub(r"(block\d)\.", r"\1.layer.", name).replace("shortcut", "convShortcut")
        return re.sub(r"^bn\.", "bn1.", inside.replace("fc.", "linear."))

    weights(here / "teacher.pt", "wrn-16-1", rename=rename, wrap=lambda state: {"state_dict": state, "best_acc1": 93.0})
    photos(here / "photos", 60)
    trial = new(*GIVEN)
    assert (trial.teacher.architecture, trial.data.num_classes, trial.data.channels) == ("wrn-16-1", 10, 3)
    assert trial.data.image_size_pixels == 32
    assert trial.teacher.mean == pytest.approx([0.249] * 3, abs=0.005)
    assert trial.teacher.std == pytest.approx([0.145] * 3, abs=0.005)
    assert (trial.collection.num_images, trial.collection.holdout_images) == (40, 20)
    said = capsys.readouterr().out
    assert "wrn-16-1 has these names and shapes" in said
    assert "measured on the photos" in said
    assert "next: python -m hidfd run study.yaml" in said
    assert main(["run", "study.yaml", "--dry-run"]) == 0


def test_lightning_checkpoint_with_averaged_weights_says_which_are_taken(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrap(state: dict[str, Tensor]) -> dict[str, Any]:
        raw, average = ({f"{start}{name}": t for name, t in state.items()} for start in ("model.", "ema_model."))
        return {"pytorch-lightning_version": "2.5.0", "epoch": 3, "state_dict": raw | average}

    weights(here / "teacher.pt", "resnet8", 5, 1, width=8, wrap=wrap)
    photos(here / "photos", 60, (28,), is_grey=True)
    trial = new(*GIVEN)
    assert (trial.teacher.architecture, trial.teacher.width, trial.data.channels) == ("resnet8", 8, 1)
    assert trial.teacher.weights == "ema_model"
    assert trial.generation.image_size_pixels == trial.data.image_size_pixels == 28
    assert "resnet8 (ema_model.*) has these names and shapes; so has resnet8 (model.*)" in capsys.readouterr().out


def test_fine_tuned_torchvision_network_gets_imagenets_mean_and_the_size_of_the_photos(here: Path) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), here / "teacher.pt")
    for name in ("cat", "dog", "newt"):
        photos(here / "validation" / name, 2, (64,))
    photos(here / "photos", 40, (64,))
    trial = new("deep.yaml", *GIVEN, "--validation", "validation", "--preset", "paper")
    assert (trial.teacher.architecture, trial.data.num_classes) == ("resnet18", 3)
    assert (trial.teacher.mean, trial.teacher.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert trial.data.image_size_pixels == 64
    assert trial.distillation.architecture == "resnet18-32px"
    assert trial.data.validation is not None
    assert trial.data.validation.path == str(here / "validation")


@pytest.mark.parametrize(
    ("sides", "architecture", "side"), [((32,), "shufflenetv2-32px", 32), ((300, 96), "shufflenetv2", 224)]
)
def test_of_two_networks_with_the_same_weights_the_photos_tell_which(
    here: Path, capsys: pytest.CaptureFixture[str], sides: tuple[int, ...], architecture: str, side: int
) -> None:
    weights(here / "teacher.pt", "shufflenetv2")
    photos(here / "photos", 20, sides)
    trial = new(*GIVEN)
    assert (trial.teacher.architecture, trial.data.image_size_pixels) == (architecture, side)
    other = {"shufflenetv2", "shufflenetv2-32px"} - {architecture}
    assert f"{architecture} has these names and shapes; so has {other.pop()}" in capsys.readouterr().out


def test_unknown_network_is_a_line_to_fill_in_and_run_says_which(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"stem.weight": torch.zeros(8, 3, 3, 3), "head.weight": torch.zeros(7, 8)}, here / "teacher.pt")
    photos(here / "photos", 30)
    assert main(["new", *GIVEN]) == 0
    assert "fill in: trial.teacher.architecture" in capsys.readouterr().out
    assert "num_classes: 7" in (here / "study.yaml").read_text()
    assert main(["run", "study.yaml"]) == 2
    error = capsys.readouterr().err
    assert "trial.teacher.architecture" in error
    line = next(
        n for n, text in enumerate((here / "study.yaml").read_text().splitlines(), 1) if "architecture:" in text
    )
    assert f":{line}" in error


def test_sections_of_a_search_are_added_on_request(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(here / "teacher.pt", "resnet8")
    photos(here / "photos", 30)
    new("a study.yaml", *GIVEN, "--study")
    from tune.opened_study import open_study

    study = open_study("a study.yaml").definition
    assert study.name == "a-study"
    assert "next: python -m tune run 'a study.yaml'" in capsys.readouterr().out


def test_paths_are_those_from_the_folder_of_the_file(here: Path) -> None:
    weights(here / "teacher.pt", "resnet8")
    photos(here / "my photos #1", 30)
    (here / "studies").mkdir()
    trial = new("studies/mine.yaml", "--teacher", "teacher.pt", "--images", "my photos #1")
    assert Path(str(trial.data.candidates.path)).resolve() == here / "my photos #1"
    assert main(["run", "studies/mine.yaml", "--dry-run"]) == 0


def test_nothing_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(here / "teacher.pt", "resnet8")
    photos(here / "photos", 30)
    (here / "study.yaml").write_text("mine")
    assert main(["new", *GIVEN]) == 2
    assert "study.yaml: exists" in capsys.readouterr().err
    assert (here / "study.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("count", "teacher", "code", "words"),
    [
        (5, "teacher.pt", 3, "5 images, of which 5 can be opened"),
        (30, "absent.pt", 3, "absent.pt: no such file"),
        (0, "teacher.pt", 3, "no images in it"),
    ],
)
def test_what_cannot_become_a_study_is_one_message_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], count: int, teacher: str, code: int, words: str
) -> None:
    weights(here / "teacher.pt", "resnet8")
    photos(here / "photos", count)
    assert main(["new", "--teacher", teacher, "--images", "photos"]) == code
    assert words in capsys.readouterr().err
    assert not (here / "study.yaml").exists()


def test_duplicates_broken_photos_and_those_of_other_splits_are_not_counted_on(here: Path) -> None:
    weights(here / "teacher.pt", "resnet8")
    photos(here / "photos", 40)
    shutil.copy(here / "photos" / "0.png", here / "photos" / "copy.png")
    (here / "photos" / "broken.png").write_bytes(b"no image")
    (here / "validation" / "ant").mkdir(parents=True)
    shutil.copy(here / "photos" / "1.png", here / "validation" / "ant" / "1.png")
    trial = new(*GIVEN, "--validation", "validation")
    assert trial.collection.num_images + trial.collection.holdout_images == 39


def test_teacher_and_student_in_one_file_are_to_be_told_apart(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = {}
    for prefix, architecture in (("student.", "resnet8"), ("teacher.", "resnet14")):
        network = build_backbone(architecture, num_classes=3, channels=3)
        both |= {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": both}, here / "teacher.pt")
    photos(here / "photos", 30)
    assert main(["new", *GIVEN]) == 0
    said = capsys.readouterr().out
    assert "resnet8 (student.*) has these names and shapes; so has resnet14 (teacher.*)" in said
    assert "fill in: trial.teacher.architecture" in said
    assert "fill in: trial.teacher.weights" in said
    trial = new("chosen.yaml", *GIVEN, "--weights", "teacher")
    assert (trial.teacher.architecture, trial.teacher.weights) == ("resnet14", "teacher")


def test_sample_is_of_all_photos_and_not_of_the_first_folder(here: Path) -> None:
    weights(here / "teacher.pt", "resnet8", 10, 3)
    photos(here / "photos" / "a", 200, (28,), is_grey=True)
    photos(here / "photos" / "b", 100, (40,))
    trial = new(*GIVEN)
    assert trial.data.image_size_pixels == 32, "no size of all"


@pytest.mark.parametrize("name", ["2024.yaml", "_mine.yaml", "null.yaml", "true.yml", "1e3.yaml", f"{'x' * 120}.yaml"])
def test_every_name_of_a_file_gives_a_study_that_loads(here: Path, name: str) -> None:
    weights(here / "teacher.pt", "resnet8")
    photos(here / "photos", 30)
    new(name, *GIVEN)


@pytest.mark.parametrize(
    "folder", ["null", "true", ".5", "~", "a: b", 'quo"te', "back\\slash", "#1", "b\x85c", "\udcff"]
)
def test_every_folder_is_found_again(here: Path, folder: str) -> None:
    weights(here / "teacher.pt", "resnet8")
    photos(here / folder, 30)
    trial = new("study.yaml", "--teacher", "teacher.pt", "--images", folder)
    assert Path(str(trial.data.candidates.path)).resolve() == (here / folder).resolve()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mine.yaml", *GIVEN, "trial.preset=paper"], "new: takes no overrides, found trial.preset=paper"),
        (["trial.preset=paper", *GIVEN], "expected the name of a study file"),
        (["there/mine.yaml", *GIVEN], "there is no folder there"),
        (["/proc/mine.yaml", *GIVEN], "/proc/mine.yaml: cannot be written"),
        (["--teacher", "teacher.pt", "--images", "${HOME}"], "environment variable"),
    ],
)
def test_words_that_new_cannot_take_are_one_message(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    weights(here / "teacher.pt", "resnet8")
    photos(here / "photos", 30)
    assert main(["new", *words]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in here.iterdir()) == ["photos", "teacher.pt"]


def test_photos_of_one_colour_and_a_teacher_of_one_output_are_lines_to_fill_in(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"conv.weight": torch.zeros(8, 3, 3, 3), "head.weight": torch.zeros(1, 8)}, here / "teacher.pt")
    (here / "photos").mkdir()
    for number in range(30):
        Image.new("RGB", (30 + number, 32), "white").save(here / "photos" / f"{number}.png")
    assert main(["new", *GIVEN]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("fill in")] == [
        f"fill in: trial.{name}" for name in ("teacher.architecture", "data.num_classes", "teacher.std")
    ]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_photos_without_labels_are_no_labelled_split(
    here: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    weights(here / "teacher.pt", "resnet8")
    photos(here / "photos", 30)
    assert main(["new", *GIVEN, f"--{split}", "photos"]) == 3
    assert f"--{split}: photos: has no labels" in capsys.readouterr().err
    assert not (here / "study.yaml").exists()


@pytest.mark.parametrize(
    ("architecture", "rename"),
    [("torchvision:efficientnet_b0", str), ("torchvision:convnext_tiny", lambda name: f"model.{name}")],
)
def test_networks_of_torchvision_are_found_by_names_and_shapes(
    architecture: str, rename: Callable[[str], str], here: Path
) -> None:
    weights(here / "teacher.pt", architecture, 7, rename=rename)
    photos(here / "photos", 30, (300, 400))
    trial = new(*GIVEN)
    assert trial.teacher.architecture == architecture
    assert (trial.data.num_classes, trial.data.image_size_pixels) == (7, 224)
    assert trial.teacher.mean == (0.485, 0.456, 0.406)


def test_a_network_of_timm_is_taken_by_its_name_with_its_own_mean_and_std(here: Path) -> None:
    weights(here / "teacher.pt", "timm:test_vit", 7, image_size_pixels=160)
    photos(here / "photos", 30, (300, 400))
    trial = new(*GIVEN, "--architecture", "timm:test_vit")
    assert (trial.teacher.architecture, trial.data.num_classes) == ("timm:test_vit", 7)
    assert trial.teacher.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet20", "its weights have other names or shapes than those of resnet20"),
        ("timm:test_resnet", "its weights have other names or shapes than those of timm:test_resnet"),
        ("timm:test_resnt", "did you mean timm:test_resnet"),
        ("resnt8", "did you mean resnet8"),
        ("nets.py:make", "write a network of your own into the study file"),
    ],
)
def test_a_named_architecture_that_is_another_one_is_refused(
    architecture: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights(here / "teacher.pt", "resnet8")
    photos(here / "photos", 30)
    assert main(["new", *GIVEN, "--architecture", architecture]) == 3
    assert message in capsys.readouterr().err


def test_a_network_of_safetensors_whose_names_are_sorted_is_found(here: Path) -> None:
    state = torch.load(weights(here / "teacher.pt", "torchvision:convnext_tiny", 7))
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, here / "t.safetensors")
    photos(here / "photos", 30, (64,))
    trial = new("--teacher", "t.safetensors", "--images", "photos", "--architecture", "torchvision:convnext_tiny")
    assert (trial.teacher.architecture, trial.data.num_classes) == ("torchvision:convnext_tiny", 7)
    assert trial.data.image_size_pixels == 64


def test_a_network_that_takes_one_size_alone_gets_it(here: Path) -> None:
    weights(here / "teacher.pt", "timm:vit_tiny_patch16_224", 7, image_size_pixels=224)
    photos(here / "photos", 30, (64,))
    trial = new(*GIVEN, "--architecture", "timm:vit_tiny_patch16_224")
    assert trial.data.image_size_pixels == 224
