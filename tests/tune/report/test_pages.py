"""The pages of a study lead to each other wherever its results lie, and the first screen says what it hands over."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hidfd.errors import StoreError
from hidfd.report.html import render, write_page
from hidfd.report.links import navigation_element
from hidfd.store.store import Store
from tests.hidfd.outline import followed, links_of, text_of
from tests.tune.snapshots import VARIANTS, study_snapshot
from tests.tune.students import keep_student
from tune.report.champion import champion_of, config_of
from tune.report.pages import write_study_pages
from tune.study.snapshot import StudySnapshot
from tune.study.states import TaskState


def with_trial_pages(snapshot: StudySnapshot) -> StudySnapshot:
    """Give every task whose folder exists a page that says of itself that it is a trial's."""
    for task in snapshot.tasks:
        if Path(task.folder).is_dir():
            said = {"page": "trial", "name": task.label}
            html = render("hidfd/report/index.html", about=said, navigation=navigation_element([]), entries=[])
            write_page(Path(task.folder) / "report.html", html)
    return snapshot


def crawl(page: Path) -> dict[Path, set[Path]]:
    """Follow the links from a page: page -> where its links lead."""
    found: dict[Path, set[Path]] = {}
    waiting = [page]
    while waiting:
        page = waiting.pop()
        if page not in found:
            links = links_of(re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL))
            assert not [link for link in links if link.startswith("/") or ":" in link]
            found[page] = {Path(followed(page.parent, link)).resolve() for link in links}
            waiting += found[page]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudySnapshot:
    snapshot = with_trial_pages(study_snapshot(tmp_path_factory.mktemp("results") / "small", study={"seeds": [1, 2]}))
    write_study_pages(snapshot, Path(snapshot.folder))
    return snapshot


@pytest.fixture(scope="module")
def page(whole: StudySnapshot) -> str:
    return (Path(whole.folder) / "report.html").read_text()


def handover_in(html: str) -> str:
    return text_of(html[html.index('<section class="handover">') : html.index("</section>")])


@pytest.mark.parametrize("name", ["copied", "100 % of it?", "a#b%20c", "Größe 測試"])
def test_every_page_leads_to_every_other_one_wherever_the_results_lie(
    whole: StudySnapshot, tmp_path: Path, name: str
) -> None:
    results = Path(shutil.copytree(Path(whole.folder).parent, tmp_path / name))
    pages = crawl(results / "index.html")
    assert set(pages) == {path.resolve() for path in results.rglob("*.html")}
    study, figures = results / "small" / "report.html", results / "small" / "figures.html"
    assert {results / "index.html", figures} <= pages[study]
    assert {results / "index.html", study} <= pages[figures]
    for task in whole.tasks:
        trial = results / "small" / task.label / "report.html"
        assert {results / "index.html", study, figures} <= pages[trial]
        assert trial in pages[study], task.label
        assert (trial in pages[figures]) == (task.role == "search" and not task.kind.is_build), task.label


def test_writing_the_pages_again_changes_nothing(whole: StudySnapshot) -> None:
    pages = sorted(Path(whole.folder).parent.rglob("*.html"))
    before = [path.read_bytes() for path in pages]
    write_study_pages(whole, Path(whole.folder))
    assert [path.read_bytes() for path in pages] == before
    assert not list(Path(whole.folder).parent.rglob(".*.part"))


def test_all_results_are_listed_with_state_and_best_value(whole: StudySnapshot) -> None:
    html = (Path(whole.folder).parent / "index.html").read_text()
    row = whole.comparison_rows[0]
    mean, deviation = 100 * row.means["agreement"], 100 * row.deviations["agreement"]
    assert f"finished agreement {mean:.1f} ± {deviation:.1f} % (hybrid, 2 fresh seeds)" in text_of(html)
    assert str(Path(whole.folder).parent) not in html


@pytest.mark.parametrize("rounds", [0, 3, 12])
def test_pages_of_a_study_under_way_lead_only_to_what_exists(rounds: int, tmp_path: Path) -> None:
    snapshot = with_trial_pages(study_snapshot(tmp_path / "results" / "part", rounds=rounds, folders=rounds > 0))
    write_study_pages(snapshot, Path(snapshot.folder))
    pages = crawl(tmp_path / "results" / "index.html")
    assert all(page.is_file() for page in pages)
    assert "part" in text_of((tmp_path / "results" / "index.html").read_text())


def test_a_page_of_a_task_that_runs_is_left_to_its_worker(tmp_path: Path) -> None:
    snapshot = with_trial_pages(study_snapshot(tmp_path / "results" / "part", rounds=12))
    running = [task for task in snapshot.tasks if task.state is TaskState.RUNNING and Path(task.folder).is_dir()]
    assert running
    before = [(Path(task.folder) / "report.html").read_bytes() for task in running]
    write_study_pages(snapshot, Path(snapshot.folder))
    assert [(Path(task.folder) / "report.html").read_bytes() for task in running] == before


def test_first_come_the_champion_its_weights_and_what_to_do_next(whole: StudySnapshot, page: str) -> None:
    champion = champion_of(whole)
    assert champion is not None
    shown = handover_in(page)
    assert page.index('class="handover"') < min(page.index("<table"), page.index("<figure"), page.index("<svg"))
    assert f"The champion: {champion.student.label}" in shown
    for path, value in champion.student.params.items():
        assert f"{path} {value:.4g}" in shown
    assert f"agreement {100 * champion.row.means['agreement']:.1f} ±" in shown
    assert "models:/fashion-small@champion" in shown
    assert "python -m tune promote studies/fashion-small.yaml" in shown
    assert f"python -m tune show studies/fashion-small.yaml {champion.student.label}" in shown


def test_the_weights_are_where_the_page_says(
    whole: StudySnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = champion_of(whole)
    assert champion is not None
    store = Store.open(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results" / "small"
    assert "Not in the store any more" in handover_in(write_study_pages(whole, folder, store).read_text())
    keep_student(store, config_of(champion.student, whole))
    shown = handover_in(write_study_pages(whole, folder, store).read_text())
    (address,) = re.findall(r"In the store: (\S+)", shown)
    assert not Path(address).is_absolute()
    assert (tmp_path / address).is_file()
    assert address.endswith("/student.safetensors")


def test_a_store_that_cannot_be_read_does_not_keep_the_page_back(
    whole: StudySnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: str) -> None:
        raise StoreError("the network is away")

    store = Store.open(tmp_path / "store")
    monkeypatch.setattr(store, "find", fail)
    shown = handover_in(write_study_pages(whole, tmp_path / "small", store).read_text())
    assert "In the store, which cannot be read there now" in shown


def test_weights_of_a_student_that_an_older_version_made_are_not_named(whole: StudySnapshot, tmp_path: Path) -> None:
    champion = champion_of(whole)
    assert champion is not None
    keys = {champion.student.key: "e" * 64}
    tasks = tuple(replace(task, key=keys.get(task.key, task.key)) for task in whole.tasks)
    rows = tuple(replace(row, keys=tuple(keys.get(key, key) for key in row.keys)) for row in whole.comparison_rows)
    older = replace(whole, tasks=tasks, comparison_rows=rows)
    shown = handover_in(write_study_pages(older, tmp_path / "small", Store.open(tmp_path / "store")).read_text())
    assert "In the store" not in shown
    assert "promote" in shown


def test_before_the_end_the_best_so_far_and_the_command_that_goes_on_come_first(tmp_path: Path) -> None:
    snapshot = study_snapshot(tmp_path / "part", rounds=24, folders=False)
    assert snapshot.best is not None
    shown = handover_in(write_study_pages(snapshot, tmp_path / "part").read_text())
    assert f"The best student so far: trial-{snapshot.best}" in shown
    assert "its agreement chose it, so that is too high" in shown
    assert "python -m tune run studies/fashion-small.yaml" in shown
    assert "promote" not in shown


def test_a_study_of_variants_hands_over_nobody(tmp_path: Path) -> None:
    study = {"variants": VARIANTS, "seeds": [1]}
    snapshot = study_snapshot(tmp_path / "variants", folders=False, study=study, search={})
    shown = handover_in(write_study_pages(snapshot, tmp_path / "variants").read_text())
    assert "What to do next" in shown
    assert "python -m tune status studies/fashion-small.yaml" in shown
    assert "promote" not in shown


def test_every_table_scrolls_in_itself(page: str) -> None:
    assert page.count("<table") > 3
    assert len(re.findall(r'<div class="scroll[^"]*"><table', page)) == page.count("<table")


def test_results_of_a_trial_come_before_its_parameters(page: str) -> None:
    table = page[page.index("<h2>The search</h2>") :]
    assert table.index(">agreement</th>") < table.index(">validation</th>") < table.index(">inflation</th>")


def test_rows_of_images_are_named(page: str) -> None:
    assert page.count('<li title="t-shirt">t-shirt</li>') == 3  # collected images, the best and the worst generator


@pytest.mark.parametrize("num_students", [1, 2])
def test_one_is_not_written_as_several(num_students: int, tmp_path: Path) -> None:
    study = {"num_students": num_students, "startup_students": 1, "students_per_generator": 1, "seeds": [1]}
    snapshot = study_snapshot(tmp_path / "one", study=study)
    write_study_pages(snapshot, tmp_path / "one")
    for name in ("one/report.html", "one/figures.html", "index.html"):
        html = re.sub(r"<(script|style|svg|details).*?</\1>", "", (tmp_path / name).read_text(), flags=re.DOTALL)
        text = text_of(html)
        wrong = r"(?<![\d.,])1 (?:[a-z-]+ )?(?:students|trials|tasks|generators|seeds|variants|images|classes|ones)\b"
        assert re.findall(wrong, text) == [], name
