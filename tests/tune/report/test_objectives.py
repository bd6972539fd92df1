"""Several objectives and constraints on terminals, pages and in MLflow's tags: the front, and infeasible students."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.hidfd.outline import Outline, text_of
from tests.tune.sized import TRADED_OFF, SizedWorld, sized
from tests.tune.world import run
from tune.planner.snapshots import snapshot_of
from tune.promote import _why_nothing_to_promote
from tune.report.cautions import cautions
from tune.report.champion import champion_of, tags_of
from tune.report.objectives import front_in_words, why_no_champion
from tune.report.page import write_study_report
from tune.report.search_figures import front_of, write_study_figures
from tune.report.summary import conclusion_in_words
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskState
from tune.terminal.explanation import explain
from tune.terminal.tables import comparison_table, trials_table
from tune.tracking.run_content import feasible_tag

BOUNDED = {"constraints": {"latency_milliseconds": {"max": 2}}}
"""Constraints that the biggest of the three sizes misses."""


def shown(folder: Path, **study: Any) -> StudySnapshot:
    return snapshot_of(run(replace(sized(16, **study), folder=folder), SizedWorld()).state)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    folder = tmp_path_factory.mktemp("study")
    return shown(folder, seeds=[1001, 1002], **TRADED_OFF, **BOUNDED)


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    return shown(tmp_path_factory.mktemp("study"), constraints={"deployed_parameters": {"max": 1000}})


def printed(table: Any) -> list[str]:
    stream = io.StringIO()
    Console(width=200, file=stream).print(table)
    return stream.getvalue().splitlines()


def test_table_of_the_search_marks_the_front_and_says_what_is_missed(both: StudySnapshot) -> None:
    lines = printed(trials_table(both))
    heading = next(line for line in lines if "architecture" in line)
    assert heading.index(" agreement") < heading.index("deployed parameters") < heading.index("latency")
    assert sum("★" in line for line in lines) == 1
    assert sum("◆" in line for line in lines) == len(both.front) - 1 > 0
    missing = [line for line in lines if "infeasible: latency 2.7 ms, not at most 2 ms" in line]
    assert len(missing) == sum(not trial.feasible for trial in both.trials) > 0
    assert [line for line in lines if line.strip()][-len(missing) :] == missing, "they come last"
    assert "175,000" in "".join(printed(comparison_table(both)))


def test_the_front_is_told_in_a_sentence(both: StudySnapshot) -> None:
    words = front_in_words(both) or ""
    assert f"trials {', '.join(map(str, both.front))}" in words
    assert "agreement and deployed parameters together" in words


def test_explanation_says_what_else_decides(both: StudySnapshot) -> None:
    best = both.task(both.trials[both.front[0]].key or "")
    out = next(both.task(trial.key or "") for trial in both.trials if not trial.feasible)
    assert best is not None
    assert out is not None
    told = "\n".join(explain(both, best))
    assert "judged by: deployed parameters 175,000, latency 1.75 ms; it keeps the constraints" in told
    assert "it is on the Pareto front" in told
    assert "latency 2.7 ms; infeasible: latency 2.7 ms, not at most 2 ms" in "\n".join(explain(both, out))
    assert (feasible_tag(best, both), feasible_tag(out, both)) == ("true", "false")


def test_page_shows_the_front_and_every_column(both: StudySnapshot) -> None:
    html = write_study_report(both, Path(both.folder)).read_text()
    text = text_of(html)
    assert "The Pareto front" in Outline(html).headings
    assert "Traded off deployed parameters minimised" in text
    assert "Constraints latency at most 2 ms" in text
    assert "infeasible: latency 2.7 ms" in text
    assert "on the front" in text
    assert "Latency is that of one image on one thread" in text


def test_pruning_by_agreement_alone_is_a_caution(tmp_path: Path) -> None:
    pruned = shown(tmp_path, pruner={"kind": "asha"}, **TRADED_OFF)
    assert any(trial.state is TaskState.PRUNED for trial in pruned.trials)
    assert any("stopped early by their agreement alone" in caution for caution in cautions(pruned))


def test_figures_have_the_front_that_the_study_found(both: StudySnapshot) -> None:
    front = front_of(both)
    assert front.objectives == ["agreement, %", "deployed parameters"]
    complete = [trial for trial in both.trials if trial.state is TaskState.COMPLETE]
    drawn = {complete[trial.number].key for trial in front.study.best_trials}
    assert drawn == {both.trials[number].key for number in both.front}
    page = write_study_figures(both, Path(both.folder))
    assert page is not None
    assert Outline(page.read_text()).headings[0] == "Pareto front"
    assert (page.parent / "figures" / "pareto.png").is_file()


def test_study_without_a_feasible_student_says_so_everywhere(hopeless: StudySnapshot) -> None:
    reason = "none of the 16 complete students keeps the constraints (deployed parameters at most 1,000)"
    assert why_no_champion(hopeless) == reason
    assert conclusion_in_words(hopeless).startswith(f"There is no champion: {reason}.")
    assert reason in _why_nothing_to_promote(hopeless)
    assert "★" not in "".join(printed(trials_table(hopeless)))
    write_study_figures(hopeless, Path(hopeless.folder))
    assert reason in text_of(write_study_report(hopeless, Path(hopeless.folder)).read_text())


def test_finalist_that_misses_a_constraint_on_fresh_seeds_is_marked(both: StudySnapshot) -> None:
    row = both.comparison_rows[0]
    out = replace(row, feasible=False, means=row.means | {"latency_milliseconds": 9.0})
    missing = replace(both, comparison_rows=(out, *both.comparison_rows[1:]), verdict=None)
    assert f"{row.name} (infeasible)" in "".join(printed(comparison_table(missing)))
    assert conclusion_in_words(missing).startswith(
        "There is no champion: on fresh seeds no finalist keeps the constraints"
    )
    page = write_study_report(missing, Path(both.folder)).read_text()
    assert "infeasible: latency 9 ms, not at most 2 ms" in text_of(page)


def test_registered_student_carries_what_it_was_judged_by(both: StudySnapshot) -> None:
    champion = champion_of(both)
    assert champion is not None
    tags = tags_of(champion, both)
    assert (tags["deployed_parameters"], tags["latency_milliseconds_mean"]) == ("175000", "1.75")


def test_study_of_one_objective_says_nothing_of_fronts(tmp_path: Path) -> None:
    one = shown(tmp_path)
    assert (one.front, front_in_words(one), why_no_champion(one)) == ((), None, None)
    assert "latency" not in "".join(printed(trials_table(one)))
    page = write_study_figures(one, tmp_path)
    assert page is not None
    assert "Pareto" not in "".join(Outline(page.read_text()).headings)
