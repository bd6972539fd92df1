"""The benchmark of samplers: what it counts, and the table that it prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.landscapes import LANDSCAPES, fractions_of
from benchmarks.recorded import TABLE, proxies_in_words, recorded
from benchmarks.search import BUILD_COST, Run, main, ratio_of_medians, run, study_of, table
from tune.study.task import task_specs


@pytest.mark.parametrize("landscape", LANDSCAPES, ids=lambda landscape: landscape.name)
def test_optimum_is_where_the_landscape_says(landscape) -> None:  # type: ignore[no-untyped-def]
    target = landscape.target(0.01)
    assert landscape.value(landscape.best) > target
    assert landscape.target(0.0) == pytest.approx(landscape.value(landscape.best), abs=0.001)
    assert not landscape.collapses(landscape.best)
    assert not landscape.diverges(landscape.best)


def test_regression_reads_recorded_students_as_they_were_recorded() -> None:
    landscape, rows = recorded(), pq.read_table(TABLE).to_pylist()
    assert len(rows) >= 100
    assert len({row["generator"] for row in rows}) >= 10
    points = [fractions_of(landscape.searched, row) for row in rows]
    assert all(0 <= value <= 1 for point in points for value in point.values())
    expected, shown = [landscape.value(point) for point in points], [row["agreement"][-1] for row in rows]
    assert np.corrcoef(expected, shown)[0, 1] > 0.9
    assert landscape.target(0.0) < max(expected) < landscape.target(0.0) + 2 * landscape.noise
    assert 0.005 < landscape.noise < 0.03
    early, late = (np.mean([landscape.measured(point, at) for point in points]) for at in (1 / 8, 1.0))
    assert early < late - 0.1


def test_proxies_are_ranked_with_the_students_of_their_generators() -> None:
    rows = [
        {
            "generator": f"generator-{number}",
            "state": state,
            "validation_accuracy": accuracy,
            "generator.density": number / 10,
            "judge_fid": None if number == 4 else -number,
        }
        for number in range(5)
        for state, accuracy in (("complete", 0.5 + number / 20), ("complete", 0.9 - number / 20), ("pruned", None))
    ]
    rows[0]["validation_accuracy"] = 0.1  # the mean of generator-0 is now the lowest, its best the highest
    lines = {line.split()[0]: line.split()[1:] for line in proxies_in_words(rows)}
    assert lines["generator.density"] == ["5", "+0.63", "-1.00", "±0.82"]
    assert lines["judge_fid"] == ["4", "-0.71", "+1.00", "±0.98"]


def test_table_without_the_proxies_says_so() -> None:
    lines = list(proxies_in_words(pq.read_table(TABLE).to_pylist()))
    assert lines[1].startswith("effective_classes ")
    assert "record it again" in lines[-1]


def test_generator_costs_what_the_operations_of_its_trial_say() -> None:
    specs = task_specs(study_of(LANDSCAPES[0], {}, 1, 0).base)
    assert specs[1].operations / specs[2].operations == pytest.approx(BUILD_COST, rel=0.01)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_study_ends_when_its_target_is_reached_and_the_same_study_at_the_same_time(concurrency: int) -> None:
    easy = LANDSCAPES[0].target(0.3)
    first = run(LANDSCAPES[0], "stage-aware", concurrency, 3, easy)
    assert first.reached
    assert BUILD_COST + 1 <= first.seconds < 30
    assert run(LANDSCAPES[0], "stage-aware", concurrency, 3, easy) == first


def test_table_holds_the_stage_aware_sampler_against_the_best_rival_of_each_row() -> None:
    name = LANDSCAPES[0].name
    seconds = {"stage-aware": 20.0, "TPE, 1": 90.0, "TPE, 3": 60.0}
    runs = [Run(name, sampler, 1, seed, time, True, 1, 1) for sampler, time in seconds.items() for seed in range(5)]
    lines = list(table(runs))
    assert f"| {name} | 1 | 20 | 90 | 60 | **3.0** [3.0, 3.0] (TPE, 3) |" in lines
    assert lines[-1].endswith("3.0 times sooner (geometric mean of 1)")


def test_interval_holds_the_ratio() -> None:
    random = np.random.default_rng(1)
    ratio, low, high = ratio_of_medians(random.gamma(4, 10, 20), random.gamma(4, 5, 20))
    assert low < ratio < high


def test_interrupted_benchmark_goes_on_with_what_it_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "runs.jsonl"
    name = LANDSCAPES[0].name
    line = '{"landscape": "%s", "sampler": "%s", "concurrency": 1, "seed": 0, "seconds": %s, "reached": true, '
    line += '"students": 9, "generators": 3}\n'
    kept.write_text(line % (name, "stage-aware", 10.0) + line % (name, "TPE, 3", 40.0))
    arguments = ["--seeds", "1", "--jobs", "1", "--only", name, "--concurrency", "1"]
    main([*arguments, "--samplers", "stage-aware", "TPE, 3", "--runs", str(kept)])
    assert "**4.0**" in capsys.readouterr().out
