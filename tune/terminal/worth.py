"""When a generator pays, on a terminal: the table of student budgets, and the answer in its colour."""

from __future__ import annotations

from rich.text import Text

from hidfd.formatting import NONE, percent_with_error
from hidfd.text_table import TextColumn, TextTable
from tune.report.labels import METRIC_NAMES, difference_cell
from tune.study.snapshot import StudySnapshot
from tune.study.worth.answer import cost_in_words, standing_of
from tune.terminal.verdict import STYLES


def worth_table(snapshot: StudySnapshot) -> TextTable | None:
    """Return the table of student budgets, hybrid first; None where the study does not ask when a generator pays."""
    worth = snapshot.worth
    if worth is None:
        return None
    columns = [TextColumn(""), TextColumn("n", is_right=True), TextColumn(worth.unit, is_right=True)]
    columns += [
        TextColumn(METRIC_NAMES[worth.metric], is_right=True),
        TextColumn("ahead at equal cost", 1, is_right=True),
        TextColumn("at equal steps", 1, is_right=True),
    ]
    table = TextTable(columns, title="When a generator pays")
    for budget in worth.budgets:
        ahead = [
            "" if difference is None else difference_cell(difference)
            for difference in (budget.difference, budget.at_equal_steps)
        ]
        cost = NONE if budget.cost is None else cost_in_words(budget.cost)
        accuracy = percent_with_error(budget.mean, budget.deviation)
        table.add_row(budget.name, str(budget.num_complete), cost, accuracy, *ahead)
    return table


def worth_text(snapshot: StudySnapshot) -> Text | None:
    """Return the answer in colour; None until there is one."""
    worth = snapshot.worth
    if worth is None or worth.answer is None:
        return None
    standings = {standing_of(budget.difference) for budget in worth.budgets if budget.difference is not None}
    decided = standings & {"won", "lost"}
    style = STYLES[decided.pop()] if len(decided) == 1 else STYLES["open"] if not decided else ""
    return Text.assemble("worth: ", (worth.answer, style))
