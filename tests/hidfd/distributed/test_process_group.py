"""One trial on several processes: the same numbers as on one, one writer, and no process that waits for ever."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig, check_shares
from hidfd.data.identify import identify
from hidfd.distributed.process_group import ALONE, ProcessGroup
from hidfd.distributed.random_streams import Draws, stream
from hidfd.errors import ConfigError, OutOfMemoryError, ProcessLostError, Stopped, StoreError
from hidfd.pipeline.graph import plan
from hidfd.store.store import Store
from hidfd.trial import run_trial
from tests.hidfd.interruptions import timeless
from tests.hidfd.miniature import build_world, miniature
from tests.hidfd.process_runs import (
    VARIANTS,
    Run,
    losses,
    on_two_processes,
    train,
    train_all,
    trials,
    weights_of,
    world_of,
)
from tests.hidfd.stages.golden.runs import World, double_precision

TOLERANCE = 1e-8
WEIGHTS_TOLERANCE = 1e-6
"""Largest difference by round-off, which channels of tiny variance magnify; an error makes 1e-3 within 20 steps."""

LOST_SECONDS = 20.0
"""Seconds after which a process that waits for a lost one has ended: one second, or more on a busy machine."""

SEVERAL = pytest.mark.slow
"""Mark of the tests that start two interpreters, which import torch."""


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_of_a_batch_are_equal_and_make_the_whole(count: int) -> None:
    batch = torch.arange(12).view(12, 1)
    parts = [ProcessGroup(rank, count).part(batch) for rank in range(count)]
    assert torch.equal(torch.cat(parts), batch)
    assert {len(part) for part in parts} == {12 // count}


def test_a_process_draws_for_the_global_batch_and_keeps_what_is_its_own() -> None:
    whole = Draws(stream(0, "generation", "test")).uniform(3, 8)
    parts = [Draws(stream(0, "generation", "test"), 8, ProcessGroup(rank, 2).rows(8)).uniform(3, 4) for rank in (0, 1)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_batches_that_cannot_be_shared_are_refused_all_at_once_with_what_can_be() -> None:
    check_shares({"trial.generation.batch_images": 100}, 4)
    with pytest.raises(ConfigError) as refused:
        check_shares({"trial.generation.batch_images": 100, "trial.distillation.batch_images": 64, "x": 6}, 3)
    assert str(refused.value) == (
        "trial.generation.batch_images 100, trial.distillation.batch_images 64: 3 processes cannot share it equally; "
        "set trial.generation.batch_images=102 trial.distillation.batch_images=66 (which is another trial), or use a "
        "number of processes that divides it"
    )


def test_a_process_alone_exchanges_nothing() -> None:
    tensor = torch.ones(2)
    assert ALONE.sum(tensor) is tensor
    assert ALONE.mean(tensor) is tensor
    assert ALONE.part(tensor) is tensor
    assert ALONE.from_first(lambda: 7) == 7


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every variant of training, on two processes."""
    folder = tmp_path_factory.mktemp("together")
    return on_two_processes(train_all, f"{folder}", folder=folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> World:
    with double_precision():
        return world_of(tmp_path_factory.mktemp("alone") / "store", ALONE)


@SEVERAL
@pytest.mark.parametrize("name", VARIANTS)
def test_losses_of_one_and_of_two_processes_agree_over_twenty_steps(
    name: str, together: list[dict[str, Any]], alone: World
) -> None:
    with double_precision():
        one, two = train(name, alone), together[0][name]
    assert len([row for row in one.curve if "seconds" in row]) == 20
    assert len(one.curve) == len(two.curve)
    for number, (expected, found) in enumerate(zip(one.curve, two.curve, strict=True)):
        assert expected.keys() == found.keys()
        for metric in expected.keys() - {"seconds", "unix_time"}:
            assert abs(expected[metric] - found[metric]) <= TOLERANCE, f"{metric} in row {number}"
    assert difference(one, two) <= WEIGHTS_TOLERANCE


@SEVERAL
@pytest.mark.parametrize("name", VARIANTS)
def test_both_processes_hold_the_same_weights_bit_for_bit(name: str, together: list[dict[str, Any]]) -> None:
    first, second = (answer[name] for answer in together)
    assert difference(first, second) == 0


@SEVERAL
def test_what_is_not_finite_in_one_process_skips_the_step_in_all(together: list[dict[str, Any]]) -> None:
    for answer in together:
        nothing, gradient, loss = answer["skipped"]
        assert nothing == (0.0, True)
        assert gradient == (1.0, False)
        assert loss == (1.0, False)


def difference(one: Run, other: Run) -> float:
    """Return the largest difference of any weight, running statistics included."""
    assert one.weights.keys() == other.weights.keys()
    return max((one.weights[name] - other.weights[name]).abs().max().item() for name in one.weights)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrialConfig:
    # No checkpoint by the clock, so that those that are found were asked for.
    return with_values(miniature(build_world(tmp_path_factory.mktemp("world"))), {"checkpoint_every_seconds": 1e6})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def tried(config: TrialConfig, root: Path) -> list[dict[str, Any]]:
    """The answers of two processes that ran `trials`."""
    return on_two_processes(trials, config, f"{root}", folder=root / "answers")


FILES = {"generation": "generator.safetensors", "distillation": "student.safetensors", "synthesis": "images.parquet"}


@SEVERAL
def test_a_trial_by_two_processes_makes_the_artifacts_of_one_up_to_round_off(
    tried: list[dict[str, Any]], config: TrialConfig, root: Path, tmp_path: Path
) -> None:
    with double_precision():
        alone = run_trial(config, Store.open(tmp_path / "alone"), device="cpu")
    assert tried[0]["whole"] == tried[1]["whole"]
    for found, expected in (
        (tried[0]["whole"], alone.metrics),
        (tried[0]["whole"]["generator"], alone.metrics["generator"]),
    ):
        numbers = {name: value for name, value in expected.items() if isinstance(value, int | float)}
        assert {name: found[name] for name in numbers} == pytest.approx(numbers, abs=TOLERANCE)
    one, two = Store.open(tmp_path / "alone"), Store.open(root / "whole")
    for role in ("generation", "distillation"):
        made = [store.get(role, alone.stages[role].digest) for store in (one, two)]
        assert difference(*(Run(artifact.metrics(), weights_of(artifact)) for artifact in made)) <= WEIGHTS_TOLERANCE
    assert two.get("distillation", alone.stages["distillation"].digest).environment["device"].endswith("2 processes")


@SEVERAL
def test_the_first_process_alone_writes_and_reports(tried: list[dict[str, Any]], root: Path) -> None:
    assert tried[0]["heard"] > 0
    assert tried[1]["heard"] == 0
    assert (root / "results" / "whole-0" / "report.html").exists()
    assert not (root / "results" / "whole-1").exists()
    for manifest in (root / "whole").glob("*/*/manifest.json"):
        assert len([entry for entry in manifest.parent.iterdir() if entry.is_dir()]) == 1, manifest


@SEVERAL
@pytest.mark.parametrize("stage", ["generation", "distillation"])
def test_a_stop_asked_for_in_the_first_process_stops_all_at_one_step(stage: str, tried: list[dict[str, Any]]) -> None:
    first, second = (answer[stage] for answer in tried)
    assert isinstance(first, Stopped)
    assert isinstance(second, Stopped)
    assert f"{first}" == f"{second}"
    assert f"{stage}: stopped at" in f"{first}"


@SEVERAL
def test_a_stop_leaves_one_checkpoint(tried: list[dict[str, Any]]) -> None:
    assert tried[0]["checkpoints"] == ["32"]


@SEVERAL
def test_an_interrupted_trial_on_two_processes_resumes_bit_for_bit(
    tried: list[dict[str, Any]], config: TrialConfig, root: Path
) -> None:
    assert tried[0]["resumed"] == tried[0]["whole"] == tried[1]["resumed"]
    whole, resumed = Store.open(root / "whole"), Store.open(root / "stopped")
    stages = plan(identify(config, whole))
    for role in ("generation", "distillation"):
        expected, found = (store.get(role, stages[role].digest) for store in (whole, resumed))
        assert timeless(expected.metrics()) == timeless(found.metrics())
        one, other = weights_of(expected), weights_of(found)
        assert all(torch.equal(one[name], other[name]) for name in one), role


@SEVERAL
def test_a_batch_that_two_processes_cannot_share_is_refused_before_anything_is_built(
    tried: list[dict[str, Any]],
) -> None:
    for answer in tried:
        assert isinstance(answer["refused"], ConfigError)
        assert "trial.generation.batch_images=10 trial.distillation.batch_images=16" in f"{answer['refused']}"


@pytest.fixture(scope="module")
def lost(config: TrialConfig, root: Path) -> list[dict[str, Any]]:
    """The answers of two processes that ran `losses`: the first until its end, the second until it was killed."""
    folder = root / "lost"
    first, killed = on_two_processes(losses, config, f"{folder}", folder=folder)
    assert killed is None
    return [first, pickle.loads((folder / "1.until-kill").read_bytes())]  # noqa: S301  # our own


@SEVERAL
def test_an_error_of_the_first_process_ends_all_with_the_same_error(lost: list[dict[str, Any]]) -> None:
    for answer in lost:
        assert isinstance(answer["store"], StoreError)
        assert f"{answer['store']}" == "the disk is full"


@SEVERAL
@pytest.mark.parametrize("how", ["memory", "program", "killed"])
def test_a_process_that_waits_for_a_lost_one_ends_soon_and_says_what_to_do(
    how: str, lost: list[dict[str, Any]]
) -> None:
    assert isinstance(lost[0][how], ProcessLostError)
    assert lost[0][f"{how} seconds"] < LOST_SECONDS
    assert "another process of this trial is lost" in f"{lost[0][how]}"
    assert "The same command goes on from the last checkpoint" in f"{lost[0][how]}"


@SEVERAL
def test_the_process_that_failed_keeps_its_own_error(lost: list[dict[str, Any]]) -> None:
    assert isinstance(lost[1]["program"], ZeroDivisionError)
    assert isinstance(lost[1]["memory"], OutOfMemoryError)
    assert "trial.generation.batch_images" in f"{lost[1]['memory']}"
