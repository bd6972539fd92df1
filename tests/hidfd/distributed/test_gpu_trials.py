"""Whole trials on a GPU: against a CPU, interrupted, two at the same time, and without waiting between two rows."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hidfd.stages.context
from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.errors import Stopped
from hidfd.pipeline.graph import Stage
from hidfd.pipeline.observer import Observer
from hidfd.store.checkpoints import Checkpoints
from hidfd.store.store import Store
from hidfd.training.loop import LOOPS, History, Milestone, Schedule, Training, run_loop
from hidfd.trial import TrialResult, run_trial
from tests.hidfd.distributed.gpu import PROTOTYPE, TERMS, no_waiting, no_waiting_between_rows, waiting
from tests.hidfd.distributed.side_by_side import curves_and_metrics, run_side_by_side
from tests.hidfd.interruptions import FILES, Stopper, left_by, with_own_teacher
from tests.hidfd.miniature import build_world, miniature

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings(PROTOTYPE)]

OF_ROUND_OFF = 3e-4
"""Tolerance of two runs on one GPU: of losses, and of the distance between weights as a share of their length.

Some sums on a GPU are in no fixed order. Such round-off moves these trials by 1e-5; losing an optimiser's state moves
them by 2e-3 or more.
"""

OF_DEVICE = 2e-2
"""Tolerance of losses on a GPU in fp32 and on a CPU: TF32 rounds products to 10 bits, which moves losses by 2e-3."""

OF_LONGER = {"fp32": 1e-1, "bf16": 2e-1}
"""Tolerance by precision in the longer trial, which round-off moves by 1e-2, TF32 by 2e-2 and bf16 by 3e-2."""

TERMS_ON = {"distillation.kl_weight": 1.0, "distillation.ce_weight": 1.0, "generation.flip": True}


@pytest.fixture
def config(trial_config: TrialConfig, world: Path) -> TrialConfig:
    """The trial in miniature with a teacher of its own training and every loss term."""
    return with_values(with_own_teacher(trial_config, world), TERMS_ON)


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    """A trial of some hundred steps, whose teacher tells the classes apart and whose student begins to."""
    lengths = {
        "generation.target_images": 160,
        "generation.proxies_every_images": 160,
        "distillation.target_images": 1280,
        "distillation.measure_every_images": 640,
        "distillation.learning_rate": 0.01,
        "log_every_images": 80,
    }
    world = build_world(tmp_path_factory.mktemp("world"))
    return with_values(with_own_teacher(miniature(world), world, target_images=480), {**TERMS_ON, **lengths})


@pytest.fixture(scope="module")
def longer_on_cpu(longer: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return curves_and_metrics(longer, Store.open(tmp_path_factory.mktemp("store")), device="cpu")


@pytest.fixture
def fixed_order() -> None:
    """Have cuDNN choose algorithms whose sums are in a fixed order; the folder's fixture sets that back."""
    torch.backends.cudnn.deterministic = True


def assert_losses_close(expected: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], tolerance: float) -> None:
    """Check the losses of two curves, in units of the losses but at least of 1; shares may differ by whole images."""
    losses = {f"{stage}/{term}" for stage, terms in TERMS.items() for term in terms}
    assert [row["images"] for row in expected] == [row["images"] for row in found]
    assert any(name in losses for row in expected for name in row)
    for row, other in zip(expected, found, strict=True):
        for name in losses & row.keys():
            assert other[name] == pytest.approx(row[name], rel=tolerance, abs=tolerance), (row["images"], name)


class Noting(Stopper):
    """An observer that stops a stage after two intervals, and remembers what it is told."""

    def __init__(self, stage: str, notes: list[str]) -> None:
        super().__init__(stage, 2)
        self.notes = notes

    def note(self, text: str) -> None:
        self.notes.append(text)


def run_interrupted(config: TrialConfig, store: Store, devices: Sequence[str]) -> tuple[TrialResult, list[str]]:
    """Run a trial on the first device until its teacher is half trained, on the second until its GAN is, and so on.

    Returns:
        The result, and what observers were told about resuming.
    """
    notes: list[str] = []
    for stage, device in zip(LOOPS, devices, strict=False):
        with pytest.raises(Stopped, match=rf"^{stage}: stopped at"):
            run_trial(config, store, device=device, observer=Noting(stage, notes))
    result = run_trial(config, store, device=devices[len(LOOPS)], observer=Noting("none", notes))
    return result, [note for note in notes if "resuming" in note]


@pytest.mark.usefixtures("fixed_order")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trial_interrupted_in_every_stage_ends_as_the_uninterrupted_one(
    precision: str, config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_values(config, {"precision": precision})
    monkeypatch.setattr("hidfd.training.stopping.POLL_SECONDS", 0.0)
    whole_store, store = Store.open(tmp_path / "whole"), Store.open(tmp_path / "interrupted")
    whole = run_trial(config, whole_store, device="cuda")
    resumed, notes = run_interrupted(config, store, ["cuda"] * 4)
    assert [note.split(":")[0] for note in notes] == list(LOOPS)
    for role in FILES:
        (expected, curve), (found, other) = left_by(whole, whole_store, role), left_by(resumed, store, role)
        assert expected.keys() == found.keys()
        assert_losses_close(curve, other, OF_ROUND_OFF)
        one, two = (torch.cat([part[name].double().flatten() for name in expected]) for part in (expected, found))
        assert (one - two).norm() <= OF_ROUND_OFF * one.norm(), role


@pytest.mark.parametrize("devices", [["cuda", "cpu"] * 2, ["cpu", "cuda"] * 2], ids=["from GPU", "from CPU"])
def test_trial_resumes_on_the_other_device_in_every_stage(
    devices: list[str], config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hidfd.training.stopping.POLL_SECONDS", 0.0)
    whole_store, store = Store.open(tmp_path / "whole"), Store.open(tmp_path / "interrupted")
    whole = run_trial(config, whole_store, device="cpu")
    resumed, notes = run_interrupted(config, store, devices)
    assert [note.split(":")[0] for note in notes] == list(LOOPS)
    for role in FILES:
        assert_losses_close(left_by(whole, whole_store, role)[1], left_by(resumed, store, role)[1], OF_DEVICE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_host_waits_for_the_gpu_only_where_a_row_is_read_a_milestone_measured_or_a_checkpoint_written(
    precision: str, config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []

    def guarded(
        training: Training,
        stage: Stage,
        schedule: Schedule,
        checkpoints: Checkpoints,
        observer: Observer,
        milestones: Iterable[Milestone],
        *others: Any,
        **named: Any,
    ) -> History:
        def allowed(milestone: Milestone) -> Milestone:
            def action(images: int) -> dict[str, float]:
                with waiting():
                    return milestone.action(images)

            return replace(milestone, action=action)

        stages.append(stage.name)
        with no_waiting_between_rows(), no_waiting():
            return run_loop(
                training, stage, schedule, checkpoints, observer, [*map(allowed, milestones)], *others, **named
            )

    monkeypatch.setattr(hidfd.stages.context, "run_loop", guarded)
    values = {"precision": precision, "log_every_images": 32, "checkpoint_every_seconds": 0.001}
    result = run_trial(with_values(config, values), store, device="cuda")
    assert tuple(stages) == LOOPS
    assert result.metrics["agreement"] is not None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whole_trial_on_a_gpu_ends_like_the_one_on_a_cpu(
    precision: str, longer: TrialConfig, longer_on_cpu: dict[str, Any], store: Store
) -> None:
    on_gpu = curves_and_metrics(with_values(longer, {"precision": precision}), store)
    for role in FILES:
        assert_losses_close(longer_on_cpu[role], on_gpu[role], OF_LONGER[precision])
    expected, found = longer_on_cpu["metrics"], on_gpu["metrics"]
    assert found["teacher_validation_accuracy"] == pytest.approx(expected["teacher_validation_accuracy"], abs=0.1)
    assert found["kl_to_teacher"] == pytest.approx(expected["kl_to_teacher"], rel=0.3)
    # A share of some hundred images, of which many are near the border of two classes after so short a training.
    assert found["agreement"] == pytest.approx(expected["agreement"], abs=0.25)
    same = ("student_parameters", "deployed_parameters", "teacher_parameters", "num_collected", "num_synthetic")
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}


@pytest.mark.usefixtures("fixed_order")
def test_two_trials_at_the_same_time_on_one_gpu_have_the_results_that_each_has_alone(
    longer: TrialConfig, tmp_path: Path
) -> None:
    config = with_values(longer, {"precision": "bf16"})
    alone = curves_and_metrics(config, Store.open(tmp_path / "alone"))
    both = run_side_by_side(config, tmp_path / "both", ("generation", "distillation"))
    for found in both:
        for role in FILES:
            assert_losses_close(alone[role], found[role], OF_LONGER["bf16"])
        assert found["metrics"]["num_collected"] == alone["metrics"]["num_collected"]
        assert found["metrics"]["kl_to_teacher"] == pytest.approx(alone["metrics"]["kl_to_teacher"], rel=0.3)
