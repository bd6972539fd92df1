"""A user's own photos and torchvision teacher, from a folder to a measured student, without touching code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
COLOURS = [(200, 40, 40), (40, 180, 60), (50, 60, 210), (220, 200, 60), (150, 60, 180)]

STUDY = f"""
name: own-photos
trial:
  preset: quick
  data:
    num_classes: 5
    class_names: [red, green, blue, yellow, violet]
    image_size_pixels: 224
    candidates: {{path: photos}}
    max_broken_fraction: 0.05
  teacher:
    architecture: resnet18
    checkpoint: {{path: teacher.pt}}
    mean: {MEAN}
    std: {STD}
  collection: {{num_images: 15, holdout_images: 20}}
  generation:
    image_size_pixels: 32
    width: 8
    target_images: 16
    batch_images: 8
    statistics_batches: 2
  synthesis: {{num_images: 10}}
  distillation: {{architecture: resnet8, target_images: 16, batch_images: 8}}
  log_every_images: 8
"""


@pytest.fixture
def own(tiny: Any) -> Any:
    """A folder with `photos/` (nested, JPEGs of many sizes), `teacher.pt` as many scripts save it, and `study.yaml`."""
    draws = np.random.default_rng(0)
    photos = tiny.folder / "photos"
    for old in photos.iterdir():
        old.unlink()
    for number in range(45):
        label = number % 5
        side = draws.integers(90, 320, 2)
        noise = draws.normal(0, 30, (side[0], side[1], 3))
        pixels = (noise + np.array(COLOURS[label])).clip(0, 255).astype(np.uint8)
        folder = photos / f"camera{number % 2}" / f"day{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        mode = "CMYK" if number == 7 else "L" if number == 8 else "RGB"
        Image.fromarray(pixels).convert(mode).save(folder / f"IMG_{number:04d}.jpg", quality=85)
    (photos / "camera0" / "broken.jpg").write_bytes(b"\xff\xd8 cut off")
    torch.save({"epoch": 3, "state_dict": teacher_state(photos)}, tiny.folder / "teacher.pt")
    (tiny.folder / "study.yaml").write_text(STUDY)
    return tiny


def teacher_state(photos: Path) -> dict[str, torch.Tensor]:
    """Return a torchvision ResNet-18 with `module.` keys, its classifier fitted to random features of a few photos."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=5).eval()
    paths = sorted(photos.rglob("IMG_*.jpg"))[:25]
    labels = torch.tensor([int(path.stem[-4:]) % 5 for path in paths])
    images = np.stack([np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in paths])
    image_unit = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    normalised = (image_unit - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    classifier, network.fc = network.fc, torch.nn.Identity()
    with torch.no_grad():
        features = network(normalised)
        centred = features - features.mean(dim=0)
        targets = torch.nn.functional.one_hot(labels, 5).float() - 0.2
        ridge = 1e-3 * centred.square().sum() / len(paths) * torch.eye(len(paths))
        weight = 10 * (centred.T @ torch.linalg.solve(centred @ centred.T + ridge, targets)).T
        classifier.weight.copy_(weight)
        classifier.bias.copy_(-weight @ features.mean(dim=0))
    network.fc = classifier
    return {f"module.{name}": tensor for name, tensor in network.state_dict().items()}


@pytest.mark.slow
def test_own_photos_and_torchvision_teacher_give_a_measured_student(own: Any) -> None:
    shown = own.run("hidfd", "import", "study.yaml")
    assert shown.returncode == 0, shown.stderr
    assert "broken.jpg" in shown.stdout + shown.stderr
    imported = own.run("hidfd", "import", "study.yaml", "--json")
    hashes = json.loads(imported.stdout)
    assert set(hashes) == {"data.candidates", "teacher.checkpoint"}

    # What import printed takes the place of the paths: the store alone is enough from here on.
    study = yaml.safe_load(STUDY)
    study["trial"]["data"]["candidates"] = {"sha256": hashes["data.candidates"]}
    study["trial"]["teacher"]["checkpoint"] = {"sha256": hashes["teacher.checkpoint"]}
    own.write(study)
    (own.folder / "photos").rename(own.folder / "elsewhere")
    (own.folder / "teacher.pt").unlink()
    ran = own.run("hidfd", "run", "study.yaml", "--device", "cpu")
    assert ran.returncode == 0, ran.stderr

    [folder] = (own.folder / ".hidfd" / "results" / "own-photos").glob("trial-*")
    result = json.loads((folder / "result.json").read_text())
    assert 0 <= result["agreement"] <= 1
    assert result["teacher_parameters"] == 11_179_077  # ResNet-18 with five classes
    assert sum(result["class_histogram_collection"]) == 15
    assert sum(count > 0 for count in result["class_histogram_collection"]) >= 3  # it knows the colours apart
    assert sum(result["class_histogram_synthetic"]) == 10
    assert result["validation_accuracy"] is None
    page = (folder / "report.html").read_text()
    assert "own-photos" in page
    assert "violet" in page

    again = own.run("hidfd", "stages", "study.yaml", "--json")
    assert all(row["built"] for row in json.loads(again.stdout))


@pytest.mark.slow
def test_teacher_of_a_thousand_classes_is_refused_at_import(own: Any) -> None:
    state = torch.load(own.folder / "teacher.pt", weights_only=True)["state_dict"]
    state |= {"module.fc.weight": torch.zeros(1000, 512), "module.fc.bias": torch.zeros(1000)}
    torch.save(state, own.folder / "teacher.pt")
    outcome = own.run("hidfd", "import", "study.yaml")
    assert outcome.returncode == 3, outcome.stderr
    assert "1,000 classes" in outcome.stderr or "1000 classes" in outcome.stderr
