"""All pages of a study together: its page, its figures, their links to each other and to trials, and all results."""

from __future__ import annotations

from pathlib import Path

from hidfd.report.index import write_index
from hidfd.report.links import FIGURES, REPORT, renew_navigation
from hidfd.store.store import Store
from tune.report.page import write_study_report
from tune.report.search_figures import write_study_figures
from tune.study.snapshot import StudySnapshot


def write_study_pages(snapshot: StudySnapshot, folder: Path, store: Store | None = None) -> Path:
    """Write the pages of a study into its folder, and list the study on the page over all results.

    Args:
        snapshot: of the study, at any moment.
        folder: of the study, in the results folder.
        store: that holds its students; without one the page does not say where their weights are.

    Returns:
        Path of the study's page.

    Raises:
        StoreError: a page cannot be written.
    """
    write_study_figures(snapshot, folder)
    page = write_study_report(snapshot, folder, store)
    write_index(folder.parent)
    # A task that still runs writes its page itself, with these links.
    trials = [Path(task.folder) / REPORT for task in snapshot.tasks if task.state.is_final]
    renew_navigation([page, folder / FIGURES, *trials])
    return page
