"""The text of a study file, from what weights and photos say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hidfd.config.architectures import ARCHITECTURES
from hidfd.config.presets import PRESETS
from hidfd.errors import InputError
from hidfd.formatting import plural
from hidfd.new_study.photos import PhotoFacts
from hidfd.new_study.weights import Fit, TeacherFacts

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Mean and standard deviation per channel with which torchvision's and timm's ResNets are trained on ImageNet."""

LARGE_PIXELS = 64
"""Side of photos from which on a network for 224 px is the likelier one of two that fit."""

HOLDOUT_SHARE = 3
"""Of few photos, one of so many is set aside to measure students on."""

LEAST_PHOTOS = 20
"""Number of photos below which nothing can be set aside (10) and learned from."""

SEARCH = """
study:
  num_students: 12
  students_per_generator: 3
  seeds: [1001, 1002]      # fresh ones, on which the best is trained again beside its controls
search:
  distillation.inflation: {type: float, low: 5, high: 400, log: true}
  generation.smoothing.temperature: {type: float, low: 0.5, high: 4, log: true}
  generation.generator_learning_rate: {type: float, low: 0.0002, high: 0.002, log: true}
"""


@dataclass(frozen=True)
class Draft:
    """A study file that is not written yet.

    Attributes:
        text: its text.
        found: sentences about what it rests on.
        to_fill_in: settings that could not be found, by their path.
    """

    text: str
    found: tuple[str, ...]
    to_fill_in: tuple[str, ...]


def draft(
    name: str,
    paths: Mapping[str, str],
    teacher: TeacherFacts,
    photos: PhotoFacts,
    labelled: Mapping[str, PhotoFacts],
    *,
    preset: Literal["quick", "paper"],
    is_study: bool,
) -> Draft:
    """Return a study file for a teacher and photos.

    Args:
        name: of the study.
        paths: `teacher`, `images` and, if given, `validation` and `test` -> the path to write.
        photos: of the candidates.
        labelled: of the splits that are given.
        is_study: whether sections for a search follow.

    Raises:
        InputError: there are too few photos.
    """
    usable = photos.usable(labelled.values())
    if usable < LEAST_PHOTOS:
        raise InputError(
            f"--images: {plural(photos.count, 'image')}, of which {usable} can be opened, differ and are in no other "
            f"split; expected {LEAST_PHOTOS} or more, of which some are set aside to measure the student on"
        )
    fits = _by_likelihood(teacher.fits, photos)
    fit = fits[0] if fits else None
    prefixes = list(dict.fromkeys(fit.prefix for fit in fits))
    # Of two sets of weights of one network, such as raw and averaged ones, the first is proposed, and said.
    is_known = len(prefixes) == 1 or len({fit.architecture for fit in fits}) == 1
    side, why_side = _side(fit, photos)
    channels = teacher.channels or (1 if photos.is_grey else 3)
    is_imagenet = fit is not None and ARCHITECTURES[fit.architecture].native_size_pixels == 224 and channels == 3
    mean, std = IMAGENET if is_imagenet else photos.mean_and_std(channels, side)
    origin = (
        "ImageNet's, with which torchvision's networks are trained and fine-tuned"
        if is_imagenet
        else "measured on the photos: give those of the teacher's training, if you know them"
    )
    is_flat = min(std) == 0
    colours = f"{'grey' if channels == 1 else 'RGB'}, as in the {'teacher' if teacher.channels else 'photos'}"
    missing = {
        "trial.teacher.architecture": fit is None or not is_known,
        "trial.teacher.weights": fit is not None and not is_known,
        "trial.data.num_classes": teacher.num_classes is None,
        "trial.teacher.std": is_flat,
    }
    to_fill_in = [setting for setting, is_missing in missing.items() if is_missing]
    architecture = fit.architecture if fit is not None and is_known else None
    why_none = _fits_in_words(fits) or "no network of docs/trial.md has these names and shapes"
    lines = [
        f"# Written by `python -m hidfd new`; every setting is in docs/trial.md.{_to_fill_in_words(to_fill_in)}",
        f"name: {_quoted(_name_of(name))}",
        "trial:",
        f"  preset: {preset}  # {'minutes to hours on a CPU' if preset == 'quick' else 'hours on a GPU'}",
        "  data:",
        _setting("    num_classes", teacher.num_classes, "rows of the teacher's last layer", "the teacher's classes"),
        f"    channels: {channels}  # {colours}",
        f"    image_size_pixels: {side}  # {why_side}",
        f"    candidates: {{path: {_quoted(paths['images'])}}}  # {photos.count:,} photos, {photos.sizes_in_words()}",
        *_labelled_lines(paths, labelled),
        "  teacher:",
        _setting("    architecture", architecture, _fits_in_words(fits), why_none),
    ]
    if fit is not None and is_known and fit.width is not None:
        lines.append(f"    width: {fit.width}")
    lines.append(f"    checkpoint: {{path: {_quoted(paths['teacher'])}}}")
    if teacher.weights is not None or len(prefixes) > 1:
        chosen = fit.prefix.removesuffix(".") if fit is not None and is_known and len(prefixes) > 1 else ""
        key = ".".join(part for part in (teacher.weights, chosen) if part)
        others = " and ".join(prefix.removesuffix(".") or "those without a prefix" for prefix in prefixes)
        lines.append(
            _setting("    weights", _quoted(key) if key else None, f"there are {others}", f"there are {others}")
        )
    std_shown = None if is_flat else std
    lines += [
        f"    mean: {list(mean)}  # {origin}",
        _setting("    std", std_shown, origin, "the photos have one colour"),
    ]
    num_images, holdout = _collection(usable, preset)
    lines.append(f"  collection: {{num_images: {num_images}, holdout_images: {holdout}}}")
    lines.append(f"  generation: {_generation(preset, side)}")
    lines.append(f"  distillation: {{architecture: {_student(preset, side)}}}  # the small network")
    found = [
        *teacher.notes,
        f"teacher: {why_none}",
        f"mean and std: {origin}",
        f"photos: {photos.count:,}, {photos.sizes_in_words()}",
        *(
            f"{split}: {plural(len(facts.class_names), 'class folder')}; the teacher has {teacher.num_classes} classes"
            for split, facts in labelled.items()
            if facts.class_names is not None and len(facts.class_names) != teacher.num_classes
        ),
    ]
    if "validation" not in labelled:
        found.append(
            "validation: none; labelled photos (--validation) would show whether the teacher is read correctly"
        )
    text = "\n".join(lines) + "\n" + (SEARCH.lstrip("\n") if is_study else "")
    return Draft(text, tuple(found), tuple(to_fill_in))


def _name_of(stem: str) -> str:
    """Return a name that a study may have, after that of its file."""
    return re.sub("[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:100] or "study"


def _by_likelihood(fits: tuple[Fit, ...], photos: PhotoFacts) -> list[Fit]:
    """Return the networks that fit, those for the size of the photos first."""
    is_small = photos.same_side is not None and photos.same_side < LARGE_PIXELS
    return sorted(fits, key=lambda fit: (ARCHITECTURES[fit.architecture].native_size_pixels == 32) != is_small)


def _fits_in_words(fits: list[Fit]) -> str:
    if not fits:
        return ""
    is_several = len({fit.prefix for fit in fits}) > 1
    first, *others = [fit.architecture + (f" ({fit.prefix}*)" if is_several else "") for fit in fits]
    return f"{first} has these names and shapes" + (f"; so has {' and '.join(others)}" if others else "")


def _side(fit: Fit | None, photos: PhotoFacts) -> tuple[int, str]:
    side = photos.same_side
    is_large = fit is not None and ARCHITECTURES[fit.architecture].native_size_pixels == 224
    low, high = (LARGE_PIXELS, 224) if is_large else (8, LARGE_PIXELS)
    if side is not None and low <= side <= high:
        return side, "side of the photos"
    return 224 if is_large else 32, "of the published network; the teacher should see images as in its training"


def _collection(count: int, preset: Literal["quick", "paper"]) -> tuple[int, int]:
    """Return n_c and the size of the hold-out: the preset's, or what so few photos allow."""
    num_images, holdout = 5_000, 2_000
    if preset == "quick":
        of_preset = PRESETS["quick"]["collection"]
        num_images, holdout = of_preset["num_images"], of_preset["holdout_images"]
    holdout = min(holdout, max(10, count // HOLDOUT_SHARE))
    return min(num_images, count - holdout), holdout


def _generation(preset: Literal["quick", "paper"], side: int) -> str:
    if preset == "paper" and side >= LARGE_PIXELS:
        return "{image_size_pixels: 64, discriminator_steps: 2}"
    return f"{{image_size_pixels: {28 if side == 28 else 32}}}"


def _student(preset: Literal["quick", "paper"], side: int) -> str:
    if side > LARGE_PIXELS:
        return "resnet18"
    return "resnet8" if preset == "quick" else "resnet18-32px"


def _labelled_lines(paths: Mapping[str, str], labelled: Mapping[str, PhotoFacts]) -> list[str]:
    lines = []
    for split in ("validation", "test"):
        if split in labelled:
            facts = labelled[split]
            names = "" if facts.class_names is None else f" of {plural(len(facts.class_names), 'class', 'classes')}"
            lines.append(f"    {split}: {{path: {_quoted(paths[split])}}}  # {facts.count:,} photos{names}")
        elif split == "validation":
            lines.append(
                "    # validation: {path: FOLDER}  # labelled photos, to check the teacher and measure accuracy"
            )
    return lines


def _setting(start: str, value: object, reason: str, missing: str) -> str:
    if value is None:
        return f"{start}:  # fill in: {missing}"
    return f"{start}: {value}  # {reason}"


def _to_fill_in_words(to_fill_in: list[str]) -> str:
    return f" Fill in {' and '.join(to_fill_in)}." if to_fill_in else ""


def _quoted(text: str) -> str:
    """Return a text as YAML has it, in quotes; signs that YAML cannot hold are escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", quoted)
