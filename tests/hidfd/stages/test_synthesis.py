"""Synthetic images: the generator's own pixels, by seed, of the classes that D_c has; and the filter of the teacher."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hidfd.stages.synthesis
from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.data.image_set import ImageSet, open_images
from hidfd.distributed.device import Device, resolve_device
from hidfd.errors import InputError
from hidfd.networks.generator import generator_of
from hidfd.networks.teacher import Teacher, TeacherOutput
from hidfd.pipeline.observer import Observer
from hidfd.stages.synthesis import MAX_TRIES, synthesise
from hidfd.store.store import Artifact, Store
from hidfd.trial import Trial


@pytest.fixture
def trial(trial_config: TrialConfig, store: Store) -> Trial:
    """A trial with an artifact of each stage up to a generator, which is not trained well."""
    config = with_values(
        trial_config,
        {"generation.smoothing.mode": "off", "generation.target_images": 8, "collection.holdout_images": 20},
    )
    trial = Trial(config, store, resolve_device("cpu", "fp32"), Observer())
    trial.run("generation")
    return trial


def synthesised(trial: Trial, folder: Path, generation: Artifact | None = None, **values: Any) -> Artifact:
    """Synthesise the images of a trial with other values, in a store of their own."""
    config = with_values(trial.config, {path.replace("__", "."): value for path, value in values.items()})
    other = Trial(config, Store.open(folder), trial.device, Observer())
    generation = generation or trial.inputs.artifact("generation")
    return synthesise(other.context(other.stages["synthesis"]), generation, trial.inputs.teacher)


def images(artifact: Artifact) -> tuple[Tensor, Tensor]:
    found: ImageSet = open_images(artifact)
    return torch.from_numpy(np.array(found.pixels)), torch.from_numpy(np.array(found.required_labels))


def with_classes(artifact: Artifact, *classes: int) -> Artifact:
    """Return the generator as if D_c had these classes alone."""
    artifact.meta["present_classes"] = list(classes)
    return artifact


def test_pixels_are_the_generators_own_without_any_stretch(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Tensor] = []

    def recorded(*arguments: Any) -> torch.nn.Module:
        generator = generator_of(*arguments)
        generator.register_forward_hook(lambda _module, _inputs, image_signed: made.append(image_signed))
        return generator

    monkeypatch.setattr(hidfd.stages.synthesis, "generator_of", recorded)
    pixels, _ = images(synthesised(trial, tmp_path / "one"))
    image_signed = torch.cat(made)
    assert torch.equal(pixels, ((image_signed + 1) / 2 * 255).round().to(torch.uint8))
    spread = pixels.flatten(1).amax(dim=1).int() - pixels.flatten(1).amin(dim=1).int()
    assert spread.max() < 200, "a stretch would go from black to white"


def test_images_are_those_of_the_seed(trial: Trial, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first, again = (images(synthesised(trial, tmp_path / name)) for name in ("one", "two"))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = images(synthesised(trial, tmp_path / "three", seeds__synthesis=1))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


def test_images_of_several_batches_are_all_different_draws(trial: Trial, tmp_path: Path) -> None:
    labels = images(synthesised(trial, tmp_path / "one", synthesis__num_images=600))[1]
    assert len(labels) == 600
    assert not torch.equal(labels[:250], labels[250:500])


def test_labels_are_uniform_over_the_classes_that_the_collection_has(trial: Trial, tmp_path: Path) -> None:
    generation = with_classes(trial.inputs.artifact("generation"), 0, 2)
    _, labels = images(synthesised(trial, tmp_path / "one", generation, synthesis__num_images=600))
    counts = torch.bincount(labels, minlength=3)
    assert counts[1] == 0
    assert abs(int(counts[0]) - 300) < 50  # four standard deviations


def test_what_is_written_down_is_what_the_teacher_says(trial: Trial, tmp_path: Path) -> None:
    artifact = synthesised(trial, tmp_path / "one")
    pixels, labels = images(artifact)
    answer = trial.inputs.teacher.ask_all(pixels, trial.device).logits.argmax(dim=1)
    assert artifact.meta["histogram"] == torch.bincount(answer, minlength=3).tolist()
    assert artifact.meta["label_agreement"] == pytest.approx((answer == labels).float().mean().item())
    assert artifact.meta["num_images"] == artifact.meta["num_drawn"] == len(pixels) == 40
    assert artifact.meta["shape"] == list(pixels.shape[1:]) == [1, 28, 28]


class Opinions:
    """A teacher that sees class `i % 3` in the i-th image of a batch, so that a third of the labels agree."""

    def ask_all(self, images_uint8: Tensor, device: Device) -> TeacherOutput:
        logits = torch.nn.functional.one_hot(torch.arange(len(images_uint8)) % 3, 3).float()
        return TeacherOutput(torch.empty(0), torch.empty(0), logits)


def test_agreement_filter_keeps_agreeing_images_alone_and_as_many_as_wanted(trial: Trial, tmp_path: Path) -> None:
    everything = synthesised(trial, tmp_path / "all", synthesis__num_images=250)
    pixels, labels = images(everything)
    opinion = torch.arange(250) % 3
    trial.inputs.teacher = Opinions()  # type: ignore[assignment]
    kept = synthesised(trial, tmp_path / "kept", synthesis__filter="agreement")
    assert kept.meta["label_agreement"] == 1.0
    assert kept.meta["num_drawn"] == 250
    agreeing = opinion == labels
    assert torch.equal(images(kept)[0], pixels[agreeing][:40])
    assert torch.equal(images(kept)[1], labels[agreeing][:40])


def test_agreement_filter_gives_up_after_its_tries_and_names_what_to_do(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always_two(self: Teacher, images_uint8: Tensor, device: Device) -> TeacherOutput:
        return TeacherOutput(torch.empty(0), torch.empty(0), torch.tensor([0.0, 0.0, 1.0]).repeat(len(images_uint8), 1))

    monkeypatch.setattr(Teacher, "ask_all", always_two)
    generation = with_classes(trial.inputs.artifact("generation"), 0, 1)
    assert MAX_TRIES == 10
    words = r"synthesis\.filter: agreement kept 0 of 500 drawn images, 40 are wanted; .*longer.*synthesis\.filter=none"
    with pytest.raises(InputError, match=words):
        synthesised(trial, tmp_path / "none", generation, synthesis__filter="agreement")
    assert not list((tmp_path / "none").rglob("manifest.json"))
