"""The page of a trial: one HTML file that loads nothing, made from the files in the trial's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hidfd.formatting import duration, percent, relative_paths
from hidfd.report.class_rows import generated_classes, picture_of_classes
from hidfd.report.curves import training_pictures
from hidfd.report.figures import bars, confusion
from hidfd.report.html import Picture, image, render, write_page
from hidfd.report.links import REPORT, navigation_element, navigation_of
from hidfd.report.summary import TrialFolder, about_trial, all_numbers, cautions, headline_tiles, settings_in_words

SHOWN_GRIDS = 4
"""Number of points of the generator's training whose sample grid the page shows."""

CLOSEST_PAIRS = (
    "Above, the synthetic images nearest to a collected one in pixels; below, that one. Twins would be copies."
)
"""Caption of the nearest pairs."""


def write_trial_report(folder: Path) -> Path:
    """Write `report.html` into a trial's folder; the page leaves out what a partial trial lacks."""
    trial = TrialFolder.read(folder)
    total = sum(stage["seconds"] or 0.0 for stage in trial.manifest["stages"])
    stages = [
        {
            **stage,
            "share": 100 * (stage["seconds"] or 0.0) / max(total, 1e-9),
            "took": "–" if stage["seconds"] is None else duration(stage["seconds"]),
        }
        for stage in trial.manifest["stages"]
    ]
    html = render(
        "hidfd/report/trial.html",
        about=about_trial(trial),
        navigation=navigation_element(navigation_of("trial", folder)),
        name=trial.name,
        manifest=trial.manifest,
        reached=trial.manifest["stages"][-1]["name"],
        asked=settings_in_words(trial),
        tiles=headline_tiles(trial),
        numbers=all_numbers(trial),
        cautions=cautions(trial),
        images=image_pictures(trial),
        grids=sample_grids(trial),
        classes=class_pictures(trial.result),
        training=training_pictures(trial.rows),
        stages=stages,
        total=duration(total),
        config=relative_paths((folder / "config.yaml").read_text(encoding="utf-8")),
        again=relative_paths(f"python -m hidfd run {folder / 'config.yaml'}"),
        command=relative_paths(trial.manifest["command"] or ""),
    )
    return write_page(folder / REPORT, html)


def image_pictures(trial: TrialFolder) -> list[Picture]:
    """Return the pictures of collected and synthetic images, then the nearest pairs, as far as they were drawn."""
    known = (
        ("real", "Collected images", "A row per class, by the teacher's argmax; white where it has no more."),
        ("synthetic", "Synthetic images", "A row per class that the generator was asked for; drawn, not picked."),
    )
    folder, names = trial.folder / "pictures", trial.result["class_names"]
    pictures = [
        Picture(title, caption, picture_of_classes(path, names))
        for name, title, caption in known
        if (path := folder / f"{name}.png").is_file()
    ]
    if (path := folder / "neighbours.png").is_file():
        pictures.append(Picture("The closest pairs", CLOSEST_PAIRS, image(path)))
    return pictures


def sample_grids(trial: TrialFolder) -> list[Picture]:
    """Return the sample grids of some points of the generator's training, the last among them."""
    grids = sorted((trial.folder / "samples").glob("generation-*.png"))
    if len(grids) > SHOWN_GRIDS:
        grids = [grids[round(i * (len(grids) - 1) / (SHOWN_GRIDS - 1))] for i in range(SHOWN_GRIDS)]
    names, classes = trial.result["class_names"], generated_classes(trial.metas)
    return [
        Picture(f"{int(grid.stem.split('-')[1]):,} images", "", picture_of_classes(grid, names, classes))
        for grid in grids
    ]


def class_pictures(result: Mapping[str, Any]) -> list[Picture]:
    """Draw class shares, agreement and accuracy per class, and the confusion matrix, as far as they are known."""
    names: Sequence[str] = result["class_names"]
    pictures = []
    histograms = {"collected": "class_histogram_collection", "synthetic": "class_histogram_synthetic"}
    counts = {name: result[key] for name, key in histograms.items() if result.get(key)}
    if counts:
        shares = {name: [100 * n / max(1, sum(values)) for n in values] for name, values in counts.items()}
        caption = "Share of each class, as the teacher sees the images; the dotted line is the uniform share."
        pictures.append(Picture("Class shares", caption, bars(names, shares, line=100 / len(names))))
    measures = {"agreement": "agreement_per_class", "validation accuracy": "validation_per_class"}
    known = {name: [_per_cent(v) for v in result[key]] for name, key in measures.items() if result.get(key)}
    if known:
        caption = "How the student does in each class; a class with fewer than 10 held-out images has no agreement."
        pictures.append(Picture("Class by class", caption, bars(names, known)))
    if result.get("validation_confusion"):
        matrix = result["validation_confusion"]
        caption = f"Per cent of each label's images, by prediction. Most often confused: {_worst_pairs(matrix, names)}."
        pictures.append(Picture("Confusion on the validation images", caption, confusion(matrix, names)))
    return pictures


def _worst_pairs(counts: Sequence[Sequence[int]], names: Sequence[str], shown: int = 3) -> str:
    pairs = sorted(
        ((row[j] / max(1, sum(row)), i, j) for i, row in enumerate(counts) for j in range(len(row)) if i != j),
        reverse=True,
    )
    return ", ".join(f"{names[i]} as {names[j]} ({percent(share, 0)})" for share, i, j in pairs[:shown])


def _per_cent(share: float | None) -> float | None:
    return None if share is None else 100 * share
