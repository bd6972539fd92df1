"""A study's page: the verdict first, numbers as in the snapshot, links that lead somewhere, and no network."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hidfd.outline import Outline, text_of
from tests.tune.snapshots import VARIANTS, study_snapshot
from tune.report.cautions import choice_in_words
from tune.report.commands import mlflow_command
from tune.report.labels import short_names
from tune.report.page import comparison_picture, write_study_report
from tune.report.summary import busy_seconds, cost_facts, headline_tiles
from tune.report.timeline import timeline
from tune.study.snapshot import StudySnapshot, TaskSnapshot
from tune.study.states import Standing, TaskKind, TaskState
from tune.study.verdict import verdict_in_words


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    return study_snapshot(tmp_path_factory.mktemp("results") / "study", study={"seeds": [1001, 1002]})


@pytest.fixture(scope="module")
def page(whole: StudySnapshot) -> str:
    return write_study_report(whole, Path(whole.folder)).read_text()


def test_verdict_comes_first(whole: StudySnapshot, page: str) -> None:
    assert whole.verdict is not None
    assert "hybrid" in whole.verdict
    text = text_of(page)
    assert whole.verdict in text
    assert text.index(whole.verdict) < text.index("The comparison") < text.index("What was asked")


def test_what_was_won_lost_and_left_open_has_a_colour_of_its_own(whole: StudySnapshot, tmp_path: Path) -> None:
    standings: list[Standing] = ["won", "lost", "undecided"]
    gains = tuple(
        replace(gain, standing=how, gain=lead, low=lead - 0.03, high=lead + 0.03, image_error=0.021)
        for gain, how, lead in zip(whole.gains, standings, (0.1, -0.23, 0.01), strict=True)
    )
    shown = replace(whole, gains=gains, verdict=verdict_in_words(gains, whole.comparison_rows))
    html = write_study_report(shown, tmp_path).read_text()
    assert re.search(
        r'<p class="verdict beaten">.*<span class="lost">lost to synthetic-only by 23.0 \[20.0, 26.0\]', html
    )
    rows = [text_of(found) for found in re.findall(r"<tr.*?</tr>", html, flags=re.DOTALL)]
    for name, words in (("real-only", "+10.0 [7.0, 13.0]"), ("synthetic-only", "-23.0 [-26.0, -20.0]")):
        assert f"{words} images ± 2.1" in next(line for line in rows if line.startswith(f" {name} "))
    assert 'class="verdict"' in write_study_report(whole, tmp_path).read_text(), "no control has beaten it"


def test_the_best_row_is_marked_be_it_a_control_or_the_champion(whole: StudySnapshot, tmp_path: Path) -> None:
    first, *others = whole.comparison_rows
    for better in (first, *others):
        rows = tuple(
            replace(row, means=row.means | {"validation_accuracy": 0.99}) if row is better else row
            for row in whole.comparison_rows
        )
        html = write_study_report(replace(whole, comparison_rows=rows), tmp_path).read_text()
        marked = re.findall(r'<tr class="strong"><td class="name">(\S+) ★</td>', html)
        assert marked == [better.name]


def test_the_value_of_the_search_stands_beside_that_of_fresh_seeds(whole: StudySnapshot, tmp_path: Path) -> None:
    row = replace(whole.comparison_rows[0], search_value=0.538)
    fresh = f"{100 * row.means['agreement']:.1f}"
    shown = replace(whole, comparison_rows=(row, *whole.comparison_rows[1:]))
    html = write_study_report(shown, tmp_path).read_text()
    lines = [text_of(found) for found in re.findall(r"<tr.*?</tr>", html, flags=re.DOTALL)]
    line = next(line for line in lines if line.strip().startswith(row.name))
    assert re.search(rf"{fresh} % ± \d\.\d 53.8 % in the search", line)
    sentence = choice_in_words(shown)
    assert sentence is not None
    assert "that it shows, 53.8 %, the" in sentence
    assert f"on 2 fresh seeds its settings reach {fresh} ±" in sentence
    assert "winner’s curse" in sentence
    assert sentence in text_of(html)


def test_a_trial_is_ranked_among_those_that_keep_the_constraints(whole: StudySnapshot) -> None:
    complete = [trial.number for trial in whole.trials if trial.state is TaskState.COMPLETE]
    chosen = whole.comparison_rows[0].trial

    def ranked(*feasible: int | None) -> str:
        trials = tuple(
            replace(trial, value=0.9 if trial.number not in feasible else 0.5, feasible=trial.number in feasible)
            if trial.number in complete
            else trial
            for trial in whole.trials
        )
        rows = (replace(whole.comparison_rows[0], search_value=0.5), *whole.comparison_rows[1:])
        return choice_in_words(replace(whole, trials=trials, comparison_rows=rows)) or ""

    other = next(number for number in complete if number != chosen)
    assert f"50.0 %, the highest of {len(complete)} complete ones;" in ranked(*complete)
    assert "50.0 %, the highest of 2 complete ones that keep the constraints;" in ranked(chosen, other)
    assert "50.0 %, the only complete one that keeps the constraints;" in ranked(chosen)


def test_page_of_a_whole_study_has_every_section(page: str) -> None:
    assert {
        *("The comparison", "What the numbers do not say", "What was asked", "The search", "Images", "What it cost"),
        *("Does the label-free number choose well?", "Who ran when", "Again", "Collected images", "Best generator"),
        *("Worst generator", "temperature", "generator_learning_rate", "inflation"),
        *("How the best student was trained", "Generation", "Distillation", "Agreement on the hold-out"),
    } <= set(Outline(page).headings)


def test_page_loads_nothing(page: str) -> None:
    assert [source for source in Outline(page).sources if not source.startswith(("data:image/png;base64,", "#"))] == []
    assert "http" not in page
    assert "<script" not in page
    assert "url(" not in page.replace("url(#", "")


def test_numbers_are_those_of_the_snapshot(whole: StudySnapshot, page: str) -> None:
    rows = re.findall(r"<tr.*?</tr>", page, flags=re.DOTALL)
    for row in whole.comparison_rows:
        line = next(text_of(found) for found in rows if re.search(f'<td class="name">{row.name}( ★)?</td>', found))
        assert f" {row.num_complete} " in line
        for metric in ("agreement", "validation_accuracy", "generator.memorisation"):
            if metric in row.means:
                assert f"{100 * row.means[metric]:.1f} % ± {100 * row.deviations[metric]:.1f}" in line
    table = page[page.index("<h2>The search</h2>") : page.index("over each parameter</h3>")]
    lines = [text_of(found) for found in re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)][1:]
    assert len(lines) == len(whole.trials)
    for trial, line in zip(whole.trials, lines, strict=True):
        assert str(trial.state) in line
        assert (f"{100 * (trial.value or 0):.1f} % ± 1.1" in line) == (trial.state is TaskState.COMPLETE)
        assert ("best" in line) == (trial.number == whole.best)
        task = whole.task(trial.key or "")
        assert task is not None
        if trial.state is TaskState.PRUNED:
            assert f"{100 * task.rungs[-1].value:.1f} % at {task.rungs[-1].images:,} images" in line
    assert {trial.state for trial in whole.trials} == {TaskState.COMPLETE, TaskState.PRUNED}
    assert f"τ = {whole.rank_agreement:.2f} over {whole.rank_agreement_count} students" in text_of(page)


def test_links_are_relative_and_lead_to_trials(whole: StudySnapshot, page: str) -> None:
    links = re.findall(r'<a href="([^"]*)"', page)
    assert len(links) > len(whole.trials)
    for link in links:
        assert not link.startswith("/")
        assert (Path(whole.folder) / link).is_file(), link
    best = next(trial for trial in whole.trials if trial.number == whole.best)
    assert f"trial-{best.number}/report.html" in links


def test_page_has_the_cautions(whole: StudySnapshot, page: str) -> None:
    text = text_of(page)
    assert f"Trial {whole.best} was chosen for the very agreement that it shows" in text
    assert "in-domain" in text
    assert "n = 2 seeds" in text
    assert "nothing was searched for them" in text
    assert "One seed (n = 1)" not in text


def test_page_gives_commands_that_work_from_here(
    whole: StudySnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = replace(whole, tracking=f"sqlite:///{tmp_path}/.hidfd/mlflow.db")
    text = text_of(write_study_report(shown, tmp_path / "page").read_text())
    assert "python -m tune run studies/fashion-small.yaml" in text
    assert "python -m tune open studies/fashion-small.yaml" in text
    assert mlflow_command(replace(whole, tracking="https://user:***@tracking.example")) is None


@pytest.mark.parametrize("rounds", [0, 3, 12, 24])
def test_page_of_a_study_under_way(rounds: int, tmp_path: Path) -> None:
    snapshot = study_snapshot(tmp_path, rounds=rounds, folders=rounds != 12)
    html = write_study_report(snapshot, tmp_path).read_text()
    outline = Outline(html)
    assert "Under way, so there is no verdict yet" in html
    assert "The comparison" not in outline.headings
    assert ("Who ran when" in outline.headings) == (rounds > 0)
    assert ("running" in text_of(html)) == (rounds > 0)
    assert all((tmp_path / link).is_file() for link in re.findall(r'<a href="([^"]*)"', html))


def test_page_without_labels_and_with_a_collapsed_generator(tmp_path: Path) -> None:
    snapshot = study_snapshot(tmp_path, labels=False, collapsed=1)
    html = write_study_report(snapshot, tmp_path).read_text()
    assert "no labelled split" in html
    assert "Kendall" not in html
    assert "validation accuracy" not in html
    assert "1 task collapsed" in html
    assert re.search(r"Trials? [\d, ]+: generator-1 collapsed: exp\(entropy\)", html)
    assert "One seed (n = 1) decides nothing" in html
    assert "generator-1, collapsed; none of its students ran to the end" in html


def test_page_of_variants_compares_and_names_no_best(tmp_path: Path) -> None:
    snapshot = study_snapshot(tmp_path, study={"variants": VARIANTS, "seeds": [1, 2, 3]}, search={})
    html = write_study_report(snapshot, tmp_path).read_text()
    text = text_of(html)
    assert "3 variants on 3 seeds each" in text
    assert "synthesis.num_images 0" in text
    assert "The search" not in Outline(html).headings
    assert "was chosen for" not in text


def test_a_generator_that_copies_is_a_caution(whole: StudySnapshot, tmp_path: Path) -> None:
    finalist = replace(whole.comparison_rows[0], means=whole.comparison_rows[0].means | {"generator.memorisation": 0.3})
    copying = replace(whole, comparison_rows=(finalist, *whole.comparison_rows[1:]))
    assert "the generator copies in part" in write_study_report(copying, tmp_path).read_text()


def test_sharing_and_stopping_early_are_counted(whole: StudySnapshot, tmp_path: Path) -> None:
    facts = dict(cost_facts(study_snapshot(tmp_path, folders=False)))
    assert facts["Sharing"].startswith("4 generators served 11 students; one for each would have taken about")
    pruned = [task for task in whole.tasks if task.state is TaskState.PRUNED]
    assert facts["Stopping early"].startswith(f"{len(pruned)} students")
    assert f"{whole.cpu_seconds:,.0f}" in dict(cost_facts(whole))["CPU-seconds"]


def test_timeline_shows_every_attempt_and_cuts_pauses(whole: StudySnapshot) -> None:
    drawn = timeline(whole)
    assert drawn is not None
    assert len(drawn.bars) == sum(len(task.attempts) for task in whole.tasks)
    assert len({bar.y for bar in drawn.bars}) == 2
    assert drawn.cuts == ()
    for lane in {bar.y for bar in drawn.bars}:
        bars = sorted((bar for bar in drawn.bars if bar.y == lane), key=lambda bar: bar.x)
        assert all(a.x + a.width <= b.x + 2 for a, b in itertools.pairwise(bars))
    assert all(bar.x >= 0 and bar.x + bar.width <= 1000 for bar in drawn.bars)

    def later(seconds: float) -> StudySnapshot:
        tasks = [*whole.tasks[:-1], _moved(whole.tasks[-1], seconds)]
        return replace(whole, tasks=tuple(tasks))

    paused = timeline(later(86_400.0))
    assert paused is not None
    assert len(paused.cuts) == 1
    assert all(bar.x + bar.width <= 1000 for bar in paused.bars)
    assert busy_seconds(later(86_400.0)) < busy_seconds(whole) + 100


def _moved(task: TaskSnapshot, seconds: float) -> TaskSnapshot:
    attempts = [
        replace(a, started=a.started + seconds, last_seen=a.last_seen + seconds, ended=(a.ended or 0) + seconds)
        for a in task.attempts
    ]
    return replace(task, attempts=tuple(attempts))


def test_tasks_found_in_the_store_are_drawn_hollow(whole: StudySnapshot) -> None:
    tasks = tuple(replace(task, reused=task.label == "trial-0") for task in whole.tasks)
    drawn = timeline(replace(whole, tasks=tasks))
    assert drawn is not None
    found = [bar.title for bar in drawn.bars if bar.is_reused]
    assert len(found) == 1
    assert found[0].startswith("trial-0 on generator-0: found in the store after ")


def test_dots_are_compared_only_where_there_are_several_seeds(whole: StudySnapshot, page: str) -> None:
    assert "compares them seed by seed" in page
    alone = comparison_picture(
        replace(whole, comparison_rows=tuple(replace(row, keys=row.keys[:1]) for row in whole.comparison_rows))
    )
    assert alone is not None
    assert alone.caption.endswith("One seed decides nothing.")


def test_teacher_has_a_tile_where_there_are_labels(whole: StudySnapshot) -> None:
    tasks = tuple(
        replace(task, metrics=task.metrics | {"teacher_validation_accuracy": 0.92})
        if task.kind is TaskKind.STUDENT
        else task
        for task in whole.tasks
    )
    tiles = {tile.name: tile.value for tile in headline_tiles(replace(whole, tasks=tasks))}
    assert tiles["The teacher's validation accuracy"] == "92.0 %"
    assert "The teacher's validation accuracy" not in {tile.name for tile in headline_tiles(whole)}


def test_page_has_the_command_that_shows_the_champion(whole: StudySnapshot, page: str) -> None:
    assert f"python -m tune show studies/fashion-small.yaml trial-{whole.best}-seed1001" in text_of(page)


def test_parameters_are_shortened_as_far_as_they_stay_apart() -> None:
    paths = ["generation.smoothing.weight", "generation.integration.weight", "distillation.inflation", "weight"]
    assert list(short_names(paths).values()) == ["smoothing.weight", "integration.weight", "inflation", "weight"]


def test_page_escapes_what_it_shows(whole: StudySnapshot, tmp_path: Path) -> None:
    html = write_study_report(replace(whole, name="<script>alert(1)</script>", notes=("<b>",)), tmp_path).read_text()
    assert "<script" not in html
    assert "&lt;b&gt;" in html


def test_same_snapshot_gives_the_same_page(whole: StudySnapshot, page: str) -> None:
    assert write_study_report(whole, Path(whole.folder)).read_text() == page


def test_a_study_that_maximises_accuracy_mixes_no_agreement_into_it(tmp_path: Path) -> None:
    snapshot = study_snapshot(tmp_path, study={"objective": "validation_accuracy"})
    html = write_study_report(snapshot, tmp_path).read_text()
    text = text_of(html)
    best = next(trial for trial in snapshot.trials if trial.number == snapshot.best)
    assert f"Trial {best.number} was chosen for the very validation accuracy that it shows" in text
    assert "The validation labels chose the best trial" in text
    assert "The validation accuracy over each parameter" in text
