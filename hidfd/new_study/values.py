"""The values of a study file that weights and photos suggest, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from hidfd.config.architectures import ARCHITECTURES, is_outside
from hidfd.config.presets import PRESETS
from hidfd.errors import InputError
from hidfd.formatting import plural
from hidfd.new_study.photos import PhotoFacts
from hidfd.new_study.weights import Fit, TeacherFacts, published_side, takes_side

Preset = Literal["quick", "paper"]

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Mean and standard deviation per channel with which torchvision's and timm's ResNets are trained on ImageNet."""

LARGE_PIXELS = 64
"""Side of photos from which on a network for 224 px is the likelier one of two that fit."""

HOLDOUT_SHARE = 3
"""Of few photos, one of so many is set aside to measure students on."""

LEAST_PHOTOS = 20
"""Number of photos below which nothing can be set aside (10) and learned from."""


@dataclass(frozen=True)
class StudyValues:
    """Values of a study file.

    Attributes:
        fit: the network of the teacher; None = it is to be filled in.
        fits: the networks that have its weights, in words; empty = none.
        num_classes: K; None = it is to be filled in.
        weights: the setting of this name; None where it is not needed, or is to be filled in.
        choices: several sets of weights in the checkpoint, in words; empty = there is one.
        channels: of the images, with `colours` as its reason.
        side: of the images that the teacher sees, with `why_side` as its reason.
        mean, std: of the images, with `origin` as their reason; std None = the photos have one colour.
        num_images, holdout: collected images and hold-out.
        generation, student: the section, and the architecture.
        to_fill_in: settings that could not be found, by their path.
    """

    fit: Fit | None
    fits: str
    num_classes: int | None
    weights: str | None
    choices: str
    channels: int
    colours: str
    side: int
    why_side: str
    mean: Sequence[float]
    std: Sequence[float] | None
    origin: str
    num_images: int
    holdout: int
    generation: str
    student: str
    to_fill_in: tuple[str, ...]


def propose(
    teacher: TeacherFacts, photos: PhotoFacts, other_splits: Iterable[PhotoFacts], preset: Preset
) -> StudyValues:
    """Return the values that a teacher and photos suggest.

    Args:
        photos: of the candidates.
        other_splits: photos that are left out of the candidates.

    Raises:
        InputError: there are too few photos.
    """
    usable = photos.usable(other_splits)
    if usable < LEAST_PHOTOS:
        raise InputError(
            f"--images: {plural(photos.count, 'image')}, of which {usable} can be opened, differ and are in no other "
            f"split; expected {LEAST_PHOTOS} or more, of which some are set aside to measure the student on"
        )
    fits = _by_likelihood(teacher.fits, photos)
    prefixes = list(dict.fromkeys(fit.prefix for fit in fits))
    # Of two sets of weights of one network, such as raw and averaged ones, the first is proposed, and said.
    is_known = len(prefixes) == 1 or len({fit.architecture for fit in fits}) == 1
    fit = fits[0] if is_known else None
    side, why_side = _side(fits[0] if fits else None, photos)
    if fits and is_outside(fits[0].architecture) and not takes_side(fits[0], side):
        side, why_side = published_side(fits[0].architecture), "of the published network, which takes no other"
    channels = teacher.channels or (1 if photos.is_grey else 3)
    is_imagenet = bool(fits) and _is_large(fits[0]) and channels == 3
    known = teacher.mean_and_std if channels == 3 else None
    mean, std = known or (IMAGENET if is_imagenet else photos.mean_and_std(channels, side))
    of_prefix = fit.prefix.removesuffix(".") if fit is not None and len(prefixes) > 1 else ""
    num_images, holdout = _collection(usable, preset)
    missing = {
        "trial.teacher.architecture": fit is None,
        "trial.teacher.weights": bool(fits) and fit is None,
        "trial.data.num_classes": teacher.num_classes is None,
        "trial.teacher.std": min(std) == 0,
    }
    return StudyValues(
        fit=fit,
        fits=_fits_in_words(fits),
        num_classes=teacher.num_classes,
        weights=".".join(part for part in (teacher.weights, of_prefix) if part) or None,
        choices=" and ".join(prefix.removesuffix(".") or "one without" for prefix in prefixes[:8])
        if prefixes[1:]
        else "",
        channels=channels,
        colours=f"{'grey' if channels == 1 else 'RGB'}, as in the {'teacher' if teacher.channels else 'photos'}",
        side=side,
        why_side=why_side,
        mean=mean,
        std=None if min(std) == 0 else std,
        origin=(
            "timm's for this network: fine-tuned networks have the same, unless you gave others"
            if known is not None
            else "ImageNet's, with which torchvision's networks are trained and fine-tuned"
            if is_imagenet
            else "measured on the photos: give those of the teacher's training, if you know them"
        ),
        num_images=num_images,
        holdout=holdout,
        generation=_generation(preset, side),
        student=_student(preset, side),
        to_fill_in=tuple(setting for setting, is_missing in missing.items() if is_missing),
    )


def _by_likelihood(fits: tuple[Fit, ...], photos: PhotoFacts) -> list[Fit]:
    """Return the networks that fit, those for the size of the photos first."""
    is_small = photos.same_side is not None and photos.same_side < LARGE_PIXELS
    return sorted(fits, key=lambda fit: _is_large(fit) == is_small)


def _is_large(fit: Fit) -> bool:
    """Whether a network was published for images of 224 pixels."""
    row = ARCHITECTURES.get(fit.architecture)
    return row is None or row.native_size_pixels == 224


def _fits_in_words(fits: list[Fit]) -> str:
    if not fits:
        return ""
    is_several = len({fit.prefix for fit in fits}) > 1
    first, *others = [fit.architecture + (f" ({fit.prefix}*)" if is_several else "") for fit in fits]
    return f"{first} has these names and shapes" + (f"; so has {' and '.join(others)}" if others else "")


def _side(fit: Fit | None, photos: PhotoFacts) -> tuple[int, str]:
    side = photos.same_side
    is_large = fit is not None and _is_large(fit)
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
