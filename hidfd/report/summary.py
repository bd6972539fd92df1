"""Settings and results of a trial in words, for its page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hidfd.formatting import number, percent, plural, points
from hidfd.report.html import Tile

MIN_CLASSES_SHARE = 1 / 3
"""Share of the classes asked for; a generator with fewer effective classes counts as collapsed."""


METHODS_IN_WORDS = {
    "dafl": "DAFL, a generator that learns beside the student; no real image is learned from",
    "cmi": "CMI, rounds of images inverted from the teacher; no real image is learned from",
    "dfnd": "DFND, the collected images alone, whose labels are taken as noisy",
}
"""Method beside HiDFD -> what it is."""


@dataclass(frozen=True)
class TrialFolder:
    """The contents of a trial's folder; empty for stages that it did not reach.

    Attributes:
        folder: their path.
        name: of the trial.
        manifest, result, config: as read; `config` is the `trial:` section.
        rows: of `metrics.jsonl`.
        metas: role -> small results of its stage.
    """

    folder: Path
    name: str
    manifest: dict[str, Any]
    result: dict[str, Any]
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    metas: dict[str, dict[str, Any]]

    @property
    def method(self) -> str:
        """Return its `trial.method`, which folders of HiDFD leave out."""
        return str(self.config.get("method", "hidfd"))

    @classmethod
    def read(cls, folder: Path) -> TrialFolder:
        """Read a trial's folder.

        Args:
            folder: with `manifest.json`, `result.json`, `config.yaml` and `metrics.jsonl` (see `hidfd.report.folder`).
        """
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return cls(
            folder=folder,
            name=manifest["name"],
            manifest=manifest,
            result=json.loads((folder / "result.json").read_text(encoding="utf-8")),
            config=yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["trial"],
            rows=[json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()],
            metas={stage["role"]: stage["meta"] for stage in manifest["stages"]},
        )


def about_trial(trial: TrialFolder) -> dict[str, Any]:
    """Return what the trial's page says of itself to the page over all results."""
    stages, accuracy = trial.manifest["stages"], trial.result.get("validation_accuracy")
    reached = stages[-1]["name"]
    best = [f"agreement {_with_error(trial.result, 'agreement')}"] if trial.result.get("agreement") is not None else []
    return {
        "page": "trial",
        "name": trial.name,
        "state": "finished" if reached == "evaluation" else f"built up to its {reached}",
        "best": ", ".join(best + ([f"validation accuracy {percent(accuracy)}"] if accuracy is not None else [])),
        "when": max((stage.get("created") or "" for stage in stages), default=""),
    }


def headline_tiles(trial: TrialFolder) -> list[Tile]:
    """Return the few numbers to see first, as far as the trial has them."""
    result, tiles = trial.result, []
    if result.get("agreement") is not None:
        mean = (
            "all together (few classes have 10)" if result.get("agreement_is_plain_mean") else "mean over the classes"
        )
        meaning = f"of held-out images, {mean}, get the teacher's class; no labels used"
        error = points(result.get("agreement_standard_error"))
        tiles.append(Tile("Agreement", percent(result["agreement"]), meaning, error))
    accuracy, teacher = result.get("validation_accuracy"), result.get("teacher_validation_accuracy")
    if accuracy is not None:
        gap = "" if teacher is None else f"; the teacher's {percent(teacher)} is {100 * (teacher - accuracy):.1f} above"
        tiles.append(Tile("Validation accuracy", percent(accuracy), f"on labelled images that chose nothing{gap}"))
    if accuracy is None and teacher is not None:
        tiles.append(Tile("Teacher's accuracy", percent(teacher), "on labelled images that chose nothing"))
    generator = result.get("generator") or {}
    if generator.get("memorisation") is not None:
        meaning = "of synthetic images lie suspiciously near a collected one; 5 % is expected without copying"
        error = points(generator.get("memorisation_standard_error"))
        tiles.append(Tile("Memorisation", percent(generator["memorisation"]), meaning, error))
    if generator.get("effective_classes") is not None:
        meaning = f"of {len(result['class_names'])} classes are filled by the generator, by exp(entropy)"
        tiles.append(Tile("Effective classes", f"{generator['effective_classes']:.1f}", meaning))
    deployed, parameters = result.get("deployed_parameters"), result.get("teacher_parameters")
    if deployed:
        meaning = f"parameters of the deployed student; the teacher has {parameters:,}" if parameters else ""
        tiles.append(Tile("Student", f"{deployed:,}", meaning))
    return tiles


def settings_in_words(trial: TrialFolder) -> list[tuple[str, str]]:
    """Return the settings of each stage that the trial reached, as (name, words)."""
    data, teacher, collection = (trial.config[key] for key in ("data", "teacher", "collection"))
    generation, synthesis, student = (trial.config[key] for key in ("generation", "synthesis", "distillation"))
    metas = trial.metas
    facts = []
    origin = "trained here" if teacher["train"] else "from a checkpoint"
    size = f"{metas['teacher']['num_parameters']:,} parameters, " if "teacher" in metas else ""
    facts.append(("Teacher", f"{teacher['architecture']}, {size}{origin}"))
    if "collection" in metas:
        domain = "in-domain" if data["candidates_in_domain"] else "not said to be in-domain"
        chosen = f"{collection['num_images']:,} of {metas['collection']['num_candidates']:,} candidates ({domain})"
        held_out = f"{collection['holdout_images']:,} others held out to judge by"
        facts.append(("Real images", f"{chosen}, mode {collection['mode']}; {held_out}"))
    if "generation" in metas:
        weights, smoothing = generation["integration"], generation["smoothing"]
        words = (
            f"{generation['networks']} networks of width {generation['width']} at "
            f"{generation['image_size_pixels']} px, {generation['target_images']:,} real images seen; "
            f"weights: trans {weights['trans_weight']:g}, blend {weights['blend_weight']:g}, "
            f"smoothing {smoothing['weight']:g} ({smoothing['mode']}, temperature {smoothing['temperature']:g})"
        )
        facts.append(("Generator", words))
    if "synthesis" in metas:
        own = "the user's own, in place of a generator" if data["synthetic"] else f"filter: {synthesis['filter']}"
        facts.append(("Synthetic images", f"{metas['synthesis']['num_images']:,}, {own}"))
    if "judge" in metas:
        size = f"{metas['judge']['num_parameters']:,} parameters"
        facts.append(("Judge", f"{trial.config['judge']['architecture']}, {size}, from a checkpoint"))
    if "distillation" in metas:
        share = trial.result.get("real_share")
        mixed = "" if share is None else f", so that {percent(share, 0)} of what the student sees is real"
        head = "under the teacher's classifier" if student["head"] == "shared" else "with a head of its own"
        words = (
            f"{student['architecture']} {head}; {student['target_images']:,} images in batches of "
            f"{student['batch_images']}, learning rate {student['learning_rate']:g}"
        )
        if trial.method == "hidfd":
            words += f"; inflation N = {student['inflation']:g}{mixed}"
        facts.append(("Student", words))
    if trial.method != "hidfd":
        facts.append(("Method", f"{METHODS_IN_WORDS[trial.method]}: {_plainly(trial.config[trial.method])}"))
    seeds = ", ".join(f"{stage} {seed}" for stage, seed in trial.config["seeds"].items())
    facts.append(("Seeds", seeds))
    return facts


def all_numbers(trial: TrialFolder) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of every number that the trial has."""
    result, generator = trial.result, trial.result.get("generator") or {}
    counted = plural(result.get("agreement_classes") or 0, "class", "classes")
    classes = f"mean over {counted}"
    if result.get("agreement_is_plain_mean"):
        classes = f"share of all held-out images; only {counted} of them {'has' if counted == '1 class' else 'have'} 10"
    rows = (
        ("agreement", _with_error(result, "agreement"), classes),
        (
            "agreement, reference",
            percent(result.get("agreement_reference")),
            "the same on held-out images that the selection of the real images would have taken",
        ),
        ("KL to the teacher", _plain(result.get("kl_to_teacher")), "mean KL(teacher || student) on the hold-out, nats"),
        ("validation accuracy", percent(result.get("validation_accuracy")), "labelled images"),
        (
            "teacher's validation accuracy",
            percent(result.get("teacher_validation_accuracy")),
            "on the same images: the mark to reach",
        ),
        (
            "calibration error",
            percent(result.get("validation_calibration_error")),
            "expected gap between confidence and accuracy, 15 bins",
        ),
        ("real share", percent(result.get("real_share")), "of the images that the student saw"),
        ("density", _plain(generator.get("density")), "near 1 where samples lie where held-out images do"),
        ("coverage", _plain(generator.get("coverage")), "share of held-out images with a sample nearby"),
        ("confidence", percent(generator.get("confidence")), "mean top probability of the teacher on samples"),
        ("label agreement", percent(generator.get("label_agreement")), "samples that show the class asked for"),
        (
            "teacher's deviation",
            _plain(generator.get("teacher_deviation"), digits=5),
            "of its mean probability over 640 views: published as better where low; low after a collapse, too",
        ),
        ("memorisation, features", _with_error(generator, "memorisation"), "5 % is expected without copying"),
        ("memorisation, pixels", _with_error(generator, "memorisation_pixels"), "the same distance in pixels"),
        ("FID, judge", _plain(result.get("judge_fid")), _judged_in_words(result, "too large with few images")),
        (
            "KID, judge",
            _plain(result.get("judge_kid"), error=result.get("judge_kid_standard_error")),
            _judged_in_words(result, "0 where they cannot be told apart"),
        ),
        ("density, judge", _plain(result.get("judge_density")), "as density, in the judge's features"),
        ("coverage, judge", _plain(result.get("judge_coverage")), "as coverage, in the judge's features"),
        ("student alone", number(result.get("student_parameters")), "parameters, with a classifier of its own"),
        ("student deployed", number(result.get("deployed_parameters")), "with projector and shared classifier"),
        ("teacher", number(result.get("teacher_parameters")), "parameters"),
    )
    return [row for row in rows if row[1] != "–"]


def cautions(trial: TrialFolder) -> list[str]:
    """Return sentences on what the numbers of this trial do not say."""
    result, generator, found = trial.result, trial.result.get("generator") or {}, []
    if result.get("agreement") is not None:
        found.append(
            "One trial is n = 1. The errors given are those of measuring on finitely many images; "
            "how much another seed would change is not among them."
        )
        if trial.result.get("num_collected"):
            found.append(
                "Agreement is measured on images like the collected ones, so it favours students that saw real images."
            )
    if result.get("in_domain"):
        found.append(
            "The candidate pool is in-domain: other images of the teacher's own data set. "
            "Out of domain, expect lower numbers and another order of settings."
        )
    if result.get("agreement") is not None and result.get("validation_accuracy") is None:
        found.append("There was no labelled split: nothing here says how often the teacher itself is right.")
    if result.get("validation_accuracy") is not None:
        found.append("Labels were used to measure, never to choose. The test labels were not read for this page.")
    collection = trial.metas.get("collection", {})
    num_labelled = {split: collection.get(f"num_in_{split}", 0) for split in ("validation", "test")}
    if any(num_labelled.values()):
        found_there = " and ".join(f"{count:,} of the {split} images" for split, count in num_labelled.items() if count)
        found.append(f"Among the candidates were {found_there}; they were left out, by their pixels.")
    elif collection and trial.config["data"].get("validation") and "num_in_validation" not in collection:
        found.append(
            "The candidates were not compared with the validation images: some of these may have been trained on."
        )
    if collection.get("checked_against_test") is False:
        found.append("The candidates were not compared with a test split: duplicates of test images may be among them.")
    share, error = generator.get("memorisation"), generator.get("memorisation_standard_error")
    if share is not None and error is not None and share > 0.05 + 2 * error:
        found.append("More synthetic images than expected are close to a collected one: the generator copies in part.")
    classes = generator.get("effective_classes")
    num_classes = len(result["class_names"])
    num_asked = generator.get("asked_classes", num_classes)
    if num_asked < num_classes:
        found.append(
            f"The collected images have {num_asked} of the {num_classes} classes, by the teacher's argmax, "
            f"and the generator makes no others: collect more varied images, or choose another collection.mode."
        )
    if classes is not None and classes < MIN_CLASSES_SHARE * num_asked:
        found.append("The generator has collapsed: it shows fewer than a third of the classes that it was asked for.")
    return found


def _plainly(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())


def _with_error(values: Mapping[str, Any], key: str) -> str:
    error = points(values.get(f"{key}_standard_error"))
    return percent(values.get(key)) + (f" ± {error}" if error and values.get(key) is not None else "")


def _judged_in_words(result: Mapping[str, Any], meaning: str) -> str:
    return f"of {result.get('judge_images') or 0:,} synthetic and as many held-out images; {meaning}"


def _plain(value: float | None, digits: int = 3, error: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
