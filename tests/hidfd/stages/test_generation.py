"""Longer generators continue shorter ones, and their snapshots are the generators of shorter trials, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.networks.teacher import Teacher
from hidfd.pipeline.graph import Stage, kept_digests, plan, snapshots
from hidfd.pipeline.observer import Observer
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.stages.generation import train_generator
from hidfd.store.store import Artifact, Store
from hidfd.trial import run_trial
from tests.hidfd.interruptions import timeless
from tests.hidfd.stages.golden.runs import CONFIG, World

# Steps of 8 images. 20 ends within a step, and where no metric, grid or proxy of a longer run is due; 32 where all are.
LENGTHS = (20, 32, 56)


@pytest.fixture
def generator(trial_config: TrialConfig) -> TrialConfig:
    return with_values(trial_config, {"generation.proxies_every_images": 32})


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images seen before each GAN step that was taken."""
    taken: list[int] = []
    step = AdversarialTraining.step

    def counted(training: AdversarialTraining, images_seen: int) -> object:
        taken.append(images_seen)
        return step(training, images_seen)

    monkeypatch.setattr(AdversarialTraining, "step", counted)
    return taken


def build(config: TrialConfig, store: Store, images: int, *at: int, observer: Observer | None = None) -> Artifact:
    """Build the generator of that length, with snapshots at `at`."""
    asked = with_values(config, {"generation.target_images": images, "generation.snapshots_at_images": at})
    result = run_trial(asked, store, until="generation", device="cpu", observer=observer)
    return store.get("generation", result.stages["generation"].digest)


def content(artifact: Artifact) -> tuple[dict[str, str], object, object]:
    """Return hashes of weights and grids, the curve, and the rest of the meta, without seconds."""
    hashes = {name: record.sha256 for name, record in artifact.files.items() if name != "metrics.jsonl"}
    return (
        hashes,
        timeless(artifact.metrics()),
        {name: value for name, value in artifact.meta.items() if name != "seconds"},
    )


OPTIONS = {
    "generation.teacher_terms_every": 2,
    "generation.consistency_weight": 1.0,
    "generation.lecam_weight": 0.1,
}


@pytest.mark.parametrize(("discriminator_steps", "values"), [(1, {}), (2, {}), (1, OPTIONS)])
def test_longer_generator_continues_a_shorter_one_bit_for_bit(
    discriminator_steps: int, values: dict[str, object], generator: TrialConfig, tmp_path: Path, steps: list[int]
) -> None:
    config = with_values(generator, {"generation.discriminator_steps": discriminator_steps, **values})
    whole = {images: build(config, Store.open(tmp_path / f"{images}"), images) for images in LENGTHS}
    steps.clear()
    store = Store.open(tmp_path / "continued")
    for images in LENGTHS:
        assert content(build(config, store, images)) == content(whole[images]), images
    assert steps == list(range(0, 64 if discriminator_steps == 2 else 56, 8 * discriminator_steps)), "each once"


def test_snapshots_are_the_artifacts_of_shorter_trials(
    generator: TrialConfig, tmp_path: Path, steps: list[int]
) -> None:
    whole = {images: build(generator, Store.open(tmp_path / f"{images}"), images) for images in LENGTHS}
    steps.clear()
    store = Store.open(tmp_path / "store")
    longest = build(generator, store, LENGTHS[-1], *LENGTHS[:-1], 400)
    assert steps == list(range(0, 56, 8))
    assert content(longest) == content(whole[LENGTHS[-1]])
    for images in LENGTHS[:-1]:
        found = store.find("generation", whole[images].digest)
        assert found is not None
        assert content(found) == content(whole[images])


@pytest.mark.parametrize(("killed_at", "values"), [(16, {}), (24, {}), (40, {}), (40, OPTIONS)])
def test_run_with_snapshots_that_is_killed_equals_the_uninterrupted_one(
    killed_at: int,
    values: dict[str, object],
    generator: TrialConfig,
    tmp_path: Path,
    steps: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks: Iterator[float] = iter(range(10**6))
    monkeypatch.setattr("hidfd.training.loop.time.monotonic", lambda: float(next(ticks)))
    logged = with_values(generator, {"log_every_images": 8, **values})
    whole = build(logged, Store.open(tmp_path / "whole"), 48)
    store = Store.open(tmp_path / "store")

    class Killer(Observer):
        def advanced(self, stage: Stage, images: int, target_images: int, metrics: dict[str, float]) -> None:
            if stage.name == "generation" and images >= killed_at:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(logged, store, 48, 24, 32, observer=Killer())
    steps.clear()
    assert content(build(logged, store, 48, 24, 32)) == content(whole)
    assert steps[0] == (24 if killed_at == 24 else killed_at - 8), "from its last checkpoint"


def test_kill_between_the_last_step_and_the_artifact_repeats_no_step(
    generator: TrialConfig, tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, store = build(generator, Store.open(tmp_path / "whole"), 32), Store.open(tmp_path / "store")
    run_trial(generator, store, until="collection", device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "writer", _die)
        with pytest.raises(KeyboardInterrupt):
            build(generator, store, 32)
    steps.clear()
    assert content(build(generator, store, 32)) == content(whole)
    assert steps == []


def test_shorter_generator_never_goes_on_from_a_longer_one(
    generator: TrialConfig, tmp_path: Path, steps: list[int]
) -> None:
    whole, store = build(generator, Store.open(tmp_path / "whole"), 32), Store.open(tmp_path / "store")
    build(generator, store, 20)
    build(generator, store, 56)
    steps.clear()
    assert content(build(generator, store, 32)) == content(whole)
    assert steps == [24], "from where that of 20 images ended"


def test_store_knows_the_state_that_a_longer_generator_needs(generator: TrialConfig, store: Store) -> None:
    build(generator, store, 32, 20)
    config = run_trial(generator, store, until="import", device="cpu").config
    trajectory = plan(config)["generation"].trajectory
    rows = [row for row in store.list() if row.kind == "checkpoints"]
    assert [row.digest for row in rows] == [trajectory]
    kept = {key.key.split("/")[2] for key in store._backend.walk(f"checkpoints/{trajectory}")}
    assert kept == {"24-end", "32-end"}
    store.write_references("study", kept_digests(with_values(config, {"generation.target_images": 32})))
    assert not [row for row in store.remove(dry_run=True) if row.kind == "checkpoints"]
    store.drop_references("study")
    store.remove()
    assert store.list() == ()


def test_snapshots_change_no_digest_and_have_those_of_shorter_trials(generator: TrialConfig, store: Store) -> None:
    config = run_trial(generator, store, until="import", device="cpu").config
    asked = with_values(config, {"generation.snapshots_at_images": (40, 16, 16, 48, 4000)})
    assert {role: stage.digest for role, stage in plan(asked).items()} == {
        role: stage.digest for role, stage in plan(config).items()
    }
    shorter = [plan(with_values(config, {"generation.target_images": images}))["generation"] for images in (16, 40)]
    assert snapshots(asked) == tuple(shorter)
    assert {stage.digest for stage in shorter} <= kept_digests(asked)
    assert snapshots(with_values(asked, {"synthesis.num_images": 0})) == ()


NO_INTEGRATION = {"generation.integration.trans_weight": 0.0, "generation.integration.blend_weight": 0.0}


def generator_of_classes(
    folder: Path, present: list[int], values: dict[str, object], patch: pytest.MonkeyPatch
) -> tuple[Artifact, str, int]:
    """Train a generator on images of these classes; return it, the notes, and how often the teacher was asked."""
    world = World(folder)
    config = with_values(CONFIG, values)
    labels = torch.tensor(present)[torch.arange(30) % len(present)]
    notes, asked = list[str](), 0
    answer = Teacher.forward

    def counted(teacher: Teacher, image_unit: Tensor) -> object:
        nonlocal asked
        asked += torch.is_grad_enabled()  # else the answer is for a measurement, or to real images
        return answer(teacher, image_unit)

    patch.setattr(world.observer, "note", notes.append)
    patch.setattr(Teacher, "forward", counted)
    context = world.context(plan(config)["generation"], config)
    artifact = train_generator(context, replace(world.collection, labels=labels), world.teacher)
    return artifact, "\n".join(notes), asked


@pytest.mark.parametrize("present", [[0], [0, 2]])
@pytest.mark.parametrize(("values", "asked"), [({}, 20), (NO_INTEGRATION, 0)])
def test_smoothing_is_off_with_a_note_where_fewer_than_three_classes_can_be_made(
    values: dict[str, object], asked: int, present: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, notes, found = generator_of_classes(tmp_path, present, values, monkeypatch)
    assert found == asked, "the teacher answers where somebody needs the answer"
    assert f"frequency smoothing is off: it needs 3 classes, and the collected images are of {len(present)}" in notes
    assert not any("generation/reg" in row for row in made.metrics())
    frequencies = made.meta["frequencies"]
    assert [k for k, share in enumerate(frequencies) if share > 0] == present
    assert sum(frequencies) == pytest.approx(1)


def test_teacher_is_asked_in_every_fourth_step_and_an_interval_has_the_means_of_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = {"generation.teacher_terms_every": 4}
    by_step, _, asked = generator_of_classes(tmp_path / "1", [0, 1, 2], {**every, "log_every_images": 8}, monkeypatch)
    assert asked == 5
    whole, _, _ = generator_of_classes(tmp_path / "2", [0, 1, 2], {**every, "log_every_images": 160}, monkeypatch)
    (row,) = [row for row in whole.metrics() if "generation/hinge_d" in row]
    steps = [row for row in by_step.metrics() if "generation/hinge_d" in row]
    for name, count in (("hinge_d", 20), ("trans", 5), ("blend", 5), ("reg", 5), ("teacher_agreement", 5)):
        values = [found[f"generation/{name}"] for found in steps if f"generation/{name}" in found]
        assert len(values) == count
        assert row[f"generation/{name}"] == pytest.approx(sum(values) / count, rel=1e-5)


def test_generator_without_smoothing_has_no_note_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, notes, _ = generator_of_classes(tmp_path, [0, 2], {"generation.smoothing.mode": "off"}, monkeypatch)
    assert "smoothing" not in notes


def _die(*_: object) -> None:
    raise KeyboardInterrupt
