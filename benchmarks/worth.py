"""When a generator pays, over several studies that asked it: the figure and the table of docs/experiments.md.

    python -m benchmarks.worth add STUDY_FILE [SETTING=VALUE ...]
    python -m benchmarks.worth

The first takes what a finished study with `study.worth` has measured into benchmarks/worth.json. The second writes
benchmarks/worth.md from it, and a picture of each data set, docs/pictures/worth-DATA_SET.png. Studies of the same data
set, number of collected images (n_c) and way to choose them on several collections become one row: the unit of its
interval is the collection then, with the mean over its seeds, else the seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hidfd.report.figures import INK, label_axes, new_panels
from tune.opened_study import open_study
from tune.report.pictures.log_axes import log_marks, marks_in_words
from tune.report.pictures.worth import COLOURS
from tune.report.selection import teacher_accuracy
from tune.study.snapshot import CostDifferenceSnapshot
from tune.study.verdict import t_quantile
from tune.study.worth.equal_cost import Arm, differences_at_equal_cost, differences_at_equal_steps

FOLDER = Path(__file__).parent
RECORDS = FOLDER / "worth.json"
TABLE = FOLDER / "worth.md"
PICTURES = FOLDER.parent / "docs" / "pictures"

DATA_SETS = {"fashion": "Fashion-MNIST, in-domain photos", "cifar10": "CIFAR-10, web photos"}
"""Folder of the validation images -> the data set in words."""

CHOICES = {"random": "", "confident": ", most confident", "confident_per_class": ", most confident of each class"}
"""`collection.mode` -> how the images were chosen, in words."""

Comparison = Callable[[Arm, Arm], Sequence[CostDifferenceSnapshot]]
"""Hybrid and real-only -> their differences at each budget of hybrid."""

Pooled = Mapping[int, tuple[float, Sequence[float]]]
"""Steps -> mean cost and the accuracy of each student."""


@dataclass(frozen=True)
class Record:
    """What one study has measured.

    Attributes:
        study: its name.
        command: that ran it.
        data_set: the folder of its validation images.
        num_collected: n_c.
        mode: how they were chosen, as `collection.mode` says it.
        collection_seed: with which its images were drawn.
        num_images: validation images.
        teacher: the teacher's accuracy on them, 0..1.
        unit: of the costs.
        budgets: arm -> steps -> `values` and `costs` on each seed; None where a student has no number.
    """

    study: str
    command: str
    data_set: str
    num_collected: int
    mode: str
    collection_seed: int
    num_images: int
    teacher: float
    unit: str
    budgets: Mapping[str, Mapping[str, Mapping[str, Sequence[float | None]]]]

    def arm(self, name: str) -> dict[int, tuple[float | None, Sequence[float | None]]]:
        """Return steps -> mean cost and the accuracy on each seed."""
        found: dict[int, tuple[float | None, Sequence[float | None]]] = {}
        for steps, budget in self.budgets[name].items():
            costs = [cost for cost in budget["costs"] if cost is not None]
            found[int(steps)] = (statistics.fmean(costs) if costs else None, budget["values"])
        return found

    def differences(self, compare: Comparison) -> dict[int, tuple[float, ...]]:
        """Return steps of hybrid -> its difference to real-only on each seed, where it is known."""
        return {
            difference.steps: tuple(value for value in difference.values if value is not None)
            for difference in compare(self.arm("hybrid"), self.arm("real-only"))
        }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worth", description=__doc__.split("\n")[0])
    parser.add_argument("action", nargs="?", choices=["add"])
    parser.add_argument("study", nargs="*", metavar="STUDY_FILE [SETTING=VALUE ...]")
    options = parser.parse_args(arguments)
    records = [Record(**record) for record in json.loads(RECORDS.read_text())] if RECORDS.exists() else []
    if options.action == "add":
        if not options.study:
            parser.error("add: expected a study file, and the overrides of its command")
        added = _measured(options.study[0], options.study[1:])
        records = [*(record for record in records if record.study != added.study), added]
        records.sort(key=lambda record: (*_row_of(record), record.collection_seed))
        RECORDS.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")
        print(f"{added.study}: in {RECORDS}")
        return 0
    if not records:
        print(f"{RECORDS}: no records; python -m benchmarks.worth add STUDY_FILE takes one", file=sys.stderr)
        return 2
    rows = [list(group) for _, group in itertools.groupby(records, key=_row_of)]
    TABLE.write_text(_table(rows))
    for data_set, of_it in itertools.groupby(rows, key=lambda row: row[0].data_set):
        _draw(list(of_it), PICTURES / f"worth-{data_set}.png")
    print(TABLE)
    return 0


def _measured(path: str, overrides: Sequence[str]) -> Record:
    """Return what a study has measured.

    Raises:
        SystemExit: it has not ended, or does not ask.
    """
    study = open_study(path, overrides)
    snapshot, base = study.snapshot(), study.definition.base
    if snapshot.worth is None or snapshot.worth.answer is None or base.data.validation is None:
        raise SystemExit(f"{study.definition.name}: expected a finished study with study.worth and validation images")
    if base.data.validation.path is None:
        raise SystemExit(f"{study.definition.name}: expected a path of the validation images, whose folder is the name")
    teacher = teacher_accuracy(snapshot)
    assert teacher is not None
    measured = next(filter(None, (task.metrics.get("validation_images") for task in snapshot.tasks)))
    budgets: dict[str, dict[str, Any]] = {"hybrid": {}, "real-only": {}}
    for budget in snapshot.worth.budgets:
        budgets[budget.arm][str(budget.steps)] = {"values": list(budget.values), "costs": list(budget.costs)}
    return Record(
        study=study.definition.name,
        command=" ".join(["python -m tune run", path, *overrides]),
        data_set=Path(base.data.validation.path).parent.name,
        num_collected=base.collection.num_images,
        mode=base.collection.mode,
        collection_seed=base.seeds.collection,
        num_images=int(measured),
        teacher=teacher,
        unit=snapshot.worth.unit,
        budgets=budgets,
    )


def _row_of(record: Record) -> tuple[str, int, str]:
    """Return what the studies of a row have in common."""
    return record.data_set, record.num_collected, record.mode


def _pooled(records: Iterable[Record], arm: str) -> Pooled:
    """Return the students of an arm over several studies, by their steps; those without a number are left out."""
    values: dict[int, list[float]] = {}
    costs: dict[int, list[float]] = {}
    for record in records:
        for steps, (cost, found) in record.arm(arm).items():
            values.setdefault(steps, []).extend(value for value in found if value is not None)
            costs.setdefault(steps, []).extend([] if cost is None else [cost])
    return {
        steps: (statistics.fmean(costs[steps]), values[steps])
        for steps in sorted(values)
        if values[steps] and costs[steps]
    }


def _difference(records: Sequence[Record], steps: int, compare: Comparison) -> str:
    """Return the mean difference with its 95 % interval over collections, or over seeds of one."""
    of_each = [found for record in records if (found := record.differences(compare).get(steps, ()))]
    units = list(of_each[0]) if len(of_each) == 1 else [statistics.fmean(found) for found in of_each]
    if not units:
        return ""
    mean = 100 * statistics.fmean(units)
    shown = f"{round(mean, 1) + 0.0:+.1f}"  # not -0.0
    if len(units) < 2:
        return shown
    variance = max(statistics.variance(units), 1 / (6 * records[0].num_images ** 2))
    half = 100 * t_quantile(len(units) - 1) * math.sqrt(variance / len(units))
    low, high = (round(end, 1) + 0.0 for end in (mean - half, mean + half))
    return f"{shown} [{low:.1f}, {high:.1f}]"


def _accuracy(values: Sequence[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{deviation}"


def _title(record: Record) -> str:
    choice = CHOICES.get(record.mode, f", {record.mode}")
    return f"{DATA_SETS.get(record.data_set, record.data_set)}, n_c = {record.num_collected:,}{choice}"


def _table(rows: Sequence[Sequence[Record]]) -> str:
    """Return the Markdown of all rows: a line for each budget of hybrid, and one for each further one of real-only."""
    lines = [
        "# When a generator pays",
        "",
        "    python -m benchmarks.worth",
        "",
        "Validation accuracy in per cent, mean ± sample standard deviation over the n students of a line. The last two",
        "columns: hybrid less real-only, at the same total cost and at as many steps (`tune.study.worth.equal_cost`);",
        "in brackets the 95 % interval over collections, or over seeds where there is one collection. Costs are CPU-",
        "seconds; those of hybrid include the whole generator.",
        "",
        "| | collections, n | steps | hybrid | cost | real-only | cost | hybrid ahead at equal cost | at equal steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for records in rows:
        hybrid, real_only = _pooled(records, "hybrid"), _pooled(records, "real-only")
        title = f"**{_title(records[0])}** (teacher {100 * records[0].teacher:.1f})"
        for steps in sorted({*hybrid, *real_only}):
            n = len((hybrid.get(steps) or real_only[steps])[1])
            cells = [
                cell
                for arm in (hybrid, real_only)
                for cell in ((_accuracy(arm[steps][1]), f"{arm[steps][0]:,.0f}") if steps in arm else ("", ""))
            ]
            cells += [
                _difference(records, steps, compare) if steps in hybrid else ""
                for compare in (differences_at_equal_cost, differences_at_equal_steps)
            ]
            lines.append(f"| {title} | {len(records)}, {n} | {steps:,} | {' | '.join(cells)} |")
            title = ""
    lines += ["", "Studies:", ""]
    lines += [f"    {record.command}" for records in rows for record in records]
    return "\n".join(lines) + "\n"


def _draw(rows: Sequence[Sequence[Record]], path: Path) -> None:
    """Draw a panel for each row: accuracy over total cost, one curve for each arm, the teacher as a dotted line."""
    figure, panels = new_panels(3.0 * len(rows), 3.4, len(rows))
    for axes, records in zip(panels, rows, strict=True):
        axes.set_xscale("log")
        costs: list[float] = []
        for arm, colour in COLOURS.items():
            points = _pooled(records, arm)
            x = [cost for cost, _ in points.values()]
            y = [100 * statistics.fmean(values) for _, values in points.values()]
            errors = [100 * statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points.values()]
            axes.errorbar(x, y, yerr=errors, color=colour, marker="o", markersize=4, capsize=2, elinewidth=1, label=arm)
            costs += x
        axes.axhline(100 * records[0].teacher, color=INK, linewidth=0.8, linestyle=":", label="teacher")
        axes.minorticks_off()
        marks = log_marks(min(costs), max(costs))
        axes.set_xticks(marks, marks_in_words(marks))
        axes.set_title(_title(records[0]).replace(", n_c", "\nn_c").replace(", most", "\nmost"), fontsize=9, color=INK)
        label_axes(
            axes, f"{records[0].unit}, generator included", "validation accuracy, %" if axes is panels[0] else ""
        )
    panels[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
