"""Augmentations of whole batches change what they may, as far as they may, drawn from their generator alone."""

import pytest
import torch
from torch import Tensor

import hidfd.stages.gan_training
from hidfd.config.paths import with_values
from hidfd.config.schema import TrialConfig
from hidfd.distributed.device import resolve_device
from hidfd.distributed.random_streams import Draws
from hidfd.pipeline.observer import Observer
from hidfd.stages.gan_training import AdversarialTraining
from hidfd.store.store import Store
from hidfd.trial import Trial
from hidfd.views.augmentation import diff_augment, random_resized_crop, random_shift

POLICIES = ("color", "translation", "cutout")
MANY = 512
"""Images in a batch over which shares are measured: a share of a half then has a standard deviation of 0.022."""


def draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def noise(count: int = 4, channels: int = 3, size_pixels: int = 16, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(count, channels, size_pixels, size_pixels, generator=draws(9).generator)


def crops_of(scale_min: float, *, flip: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return width (negative if mirrored), height and centre of many crops, as shares of the side.

    They are measured on images whose channels hold the coordinates of each pixel, without the rims, where a crop may
    meet the border.
    """
    size = 32
    at = (torch.arange(size) + 0.5) / size
    coordinates = torch.stack([at.expand(size, size), at.view(-1, 1).expand(size, size)])
    image_unit = coordinates.expand(MANY, 2, size, size)
    seen = random_resized_crop(image_unit, size, draws(), scale_min=scale_min, flip=flip)
    first, last, middle = size // 4, 3 * size // 4, size // 2
    width = (seen[:, 0, middle, last] - seen[:, 0, middle, first]) * 2
    height = (seen[:, 1, last, middle] - seen[:, 1, first, middle]) * 2
    centre = seen[:, :, middle - 1 : middle + 1, middle - 1 : middle + 1].mean(dim=(2, 3))
    return width, height, centre


def test_crop_is_drawn_from_its_generator_alone() -> None:
    image_unit = noise()
    global_state = torch.get_rng_state()
    first = random_resized_crop(image_unit, 12, draws(1), scale_min=0.2, flip=True)
    assert torch.equal(first, random_resized_crop(image_unit, 12, draws(1), scale_min=0.2, flip=True))
    assert not torch.equal(first, random_resized_crop(image_unit, 12, draws(2), scale_min=0.2, flip=True))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert first.shape == (4, 3, 12, 12)


def test_crop_of_the_whole_area_without_flip_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def square_and_central(*shape: int, generator: torch.Generator) -> Tensor:
        return torch.full(shape, 0.5)

    image_unit = noise()
    monkeypatch.setattr(torch, "rand", square_and_central)
    whole = random_resized_crop(image_unit, 16, draws(), scale_min=1.0, flip=False)
    torch.testing.assert_close(whole, image_unit, atol=1e-5, rtol=0)


def test_crop_stays_within_the_range_of_the_image() -> None:
    black_and_white = (noise(MANY, 1) > 0.5).float()
    views = random_resized_crop(black_and_white, 20, draws(), scale_min=0.08, flip=True)
    assert views.min() >= 0
    assert views.max() <= 1 + 1e-6
    inside = random_resized_crop(torch.full((MANY, 1, 16, 16), 0.7), 16, draws(), scale_min=0.08, flip=True)
    torch.testing.assert_close(inside, torch.full_like(inside, 0.7))  # nothing comes in from beyond the border


@pytest.mark.parametrize("scale_min", [0.08, 0.5])
def test_crop_takes_every_share_of_the_area_from_the_smallest_on(scale_min: float) -> None:
    width, height, _ = crops_of(scale_min, flip=False)
    area = width * height
    assert area.min() > scale_min - 1e-3
    assert area.min() < scale_min + 0.05
    assert area.max() > 0.9
    assert area.max() < 1 + 1e-3
    ratio = width / height
    assert ratio.min() > 3 / 4 - 1e-3
    assert ratio.max() < 4 / 3 + 1e-3
    assert ratio.log().mean().abs() < 0.05  # as often wide as tall


def test_crop_lies_inside_the_image_and_anywhere_in_it() -> None:
    width, height, centre = crops_of(0.08, flip=False)
    for side, middle in ((width, centre[:, 0]), (height, centre[:, 1])):
        assert (middle - side / 2).min() > -0.02
        assert (middle + side / 2).max() < 1.02
        assert middle.min() < 0.3
        assert middle.max() > 0.7


def test_crop_is_mirrored_about_half_the_time_and_never_without_flip() -> None:
    width, height, _ = crops_of(0.5, flip=True)
    assert (width < 0).float().mean().item() == pytest.approx(0.5, abs=0.09)
    assert (height > 0).all()
    assert (crops_of(0.5, flip=False)[0] > 0).all()


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Return the `c x h x w` image moved up by `down` rows and left by `right` columns, with zeros from outside."""
    size = image.shape[-1]
    padded = torch.nn.functional.pad(image, (size, size, size, size))
    return padded[:, size + down : 2 * size + down, size + right : 2 * size + right]


def moves_of(before: Tensor, after: Tensor, reach: int) -> list[tuple[int, int, bool]]:
    """Return the only shift and mirroring that turns each image of `before` into that of `after`."""
    found = []
    for old, new in zip(before, after, strict=True):
        fitting = [
            (down, right, mirrored)
            for down in range(-reach, reach + 1)
            for right in range(-reach, reach + 1)
            for mirrored in (False, True)
            if torch.allclose(
                shifted(old.flip(2), down, -right) if mirrored else shifted(old, down, right), new, atol=1e-4
            )
        ]
        assert len(fitting) == 1, fitting
        found += fitting
    return found


def test_shift_is_by_whole_pixels_up_to_the_padding_with_zeros_from_outside() -> None:
    image_unit = noise(128, 2, 9, low=0.2)
    moves = moves_of(image_unit, random_shift(image_unit, 2, draws(), flip=False), 3)
    for axis in (0, 1):
        assert {move[axis] for move in moves} == {-2, -1, 0, 1, 2}
    assert not any(mirrored for *_, mirrored in moves)


def test_shift_mirrors_about_half_of_the_images() -> None:
    image_unit = noise(128, 1, 9, low=0.2)
    moves = moves_of(image_unit, random_shift(image_unit, 1, draws(), flip=True), 1)
    assert sum(mirrored for *_, mirrored in moves) / 128 == pytest.approx(0.5, abs=0.18)


def test_shift_of_nothing_is_the_image_and_the_same_draws_give_the_same_shift() -> None:
    image_unit = noise()
    torch.testing.assert_close(random_shift(image_unit, 0, draws(), flip=False), image_unit, atol=1e-5, rtol=0)
    first = random_shift(image_unit, 4, draws(3), flip=True)
    assert torch.equal(first, random_shift(image_unit, 4, draws(3), flip=True))
    assert not torch.equal(first, random_shift(image_unit, 4, draws(4), flip=True))


@pytest.mark.gpu
def test_views_on_a_gpu_are_those_of_a_cpu_although_its_matrix_products_are_rounded() -> None:
    device = resolve_device("cuda", "fp32")
    image = noise(64, size_pixels=32)
    crop = {"size_pixels": 32, "scale_min": 0.08, "flip": True}
    found = random_resized_crop(device.images(image), draws=draws(), **crop)
    assert torch.allclose(found.cpu(), random_resized_crop(image, draws=draws(), **crop), atol=2e-5)
    found = random_shift(device.images(image), 4, draws(), flip=True)
    assert torch.allclose(found.cpu(), random_shift(image, 4, draws(), flip=True), atol=2e-5)


def test_no_policy_is_the_image_itself() -> None:
    image_signed = noise(low=-1)
    assert torch.equal(diff_augment(image_signed, (), draws()), image_signed)


@pytest.mark.parametrize("policies", [(name,) for name in POLICIES] + [POLICIES])
def test_policies_pass_gradients_and_repeat_with_their_draws(policies: tuple[str, ...]) -> None:
    image_signed = noise(low=-1).requires_grad_()
    augmented = diff_augment(image_signed, policies, draws(5))
    assert torch.equal(augmented, diff_augment(image_signed, policies, draws(5)))
    assert not torch.equal(augmented, diff_augment(image_signed, policies, draws(6)))
    weights = noise(low=0.5)
    (augmented * weights).sum().backward()
    assert image_signed.grad is not None
    assert image_signed.grad.isfinite().all()
    assert (image_signed.grad != 0).flatten(1).float().mean(dim=1).min() > 0.5, "cutout takes a quarter at most"


def test_policies_are_applied_in_one_order_however_they_are_listed() -> None:
    image_signed = noise(low=-1)
    expected = diff_augment(image_signed, POLICIES, draws())
    assert torch.equal(diff_augment(image_signed, POLICIES[::-1], draws()), expected)


def test_colour_moves_brightness_by_up_to_a_half() -> None:
    flat = torch.full((MANY, 3, 4, 4), 0.1)
    moved = diff_augment(flat, ("color",), draws()) - 0.1
    brightness = moved.mean(dim=(1, 2, 3))
    torch.testing.assert_close(moved, brightness.view(-1, 1, 1, 1).expand_as(moved))  # the same for the whole image
    assert -0.5 <= brightness.min() < -0.45
    assert 0.45 < brightness.max() <= 0.5


def test_colour_scales_contrast_by_a_half_to_one_and_a_half_and_saturation_by_up_to_two() -> None:
    image_signed = noise(1, low=-1).expand(MANY, -1, -1, -1)
    augmented = diff_augment(image_signed, ("color",), draws())

    def spreads(image: Tensor) -> tuple[Tensor, Tensor]:
        grey = image.mean(dim=1, keepdim=True)
        return grey.flatten(1).std(dim=1), (image - grey).flatten(1).norm(dim=1)

    (grey_before, colour_before), (grey_after, colour_after) = spreads(image_signed), spreads(augmented)
    contrast = grey_after / grey_before
    saturation = colour_after / colour_before / contrast
    assert 0.5 - 1e-4 < contrast.min() < 0.55
    assert 1.45 < contrast.max() < 1.5 + 1e-4
    assert saturation.min() < 0.1
    assert 1.9 < saturation.max() < 2 + 1e-4


def test_colour_of_grey_images_keeps_their_pattern() -> None:
    image_signed = noise(8, 1, low=-1)
    augmented = diff_augment(image_signed, ("color",), draws())
    before, after = (
        image.flatten(1) - image.flatten(1).mean(dim=1, keepdim=True) for image in (image_signed, augmented)
    )
    torch.testing.assert_close(torch.cosine_similarity(before, after), torch.ones(8))


@pytest.mark.parametrize(("size_pixels", "reach"), [(16, 2), (28, 4)])
def test_translation_is_by_up_to_an_eighth_and_brings_in_black(size_pixels: int, reach: int) -> None:
    image_signed = noise(96, 1, size_pixels, low=-0.5)
    moved = diff_augment(image_signed, ("translation",), draws())
    moves = moves_of(image_signed + 1, moved + 1, reach)  # black is -1, and zero after the addition
    for axis in (0, 1):
        assert {move[axis] for move in moves} == set(range(-reach, reach + 1))


def test_cutout_greys_one_square_of_half_the_side_and_nothing_else() -> None:
    image_signed = noise(MANY, 3, 16, low=0.2)
    cut = diff_augment(image_signed, ("cutout",), draws())
    gone = (cut == 0).all(dim=1)
    assert torch.equal(torch.where(gone.unsqueeze(1), 0.0, image_signed), cut)
    rows, columns = gone.any(dim=2), gone.any(dim=1)
    assert torch.equal(rows.unsqueeze(2) & columns.unsqueeze(1), gone)  # a rectangle
    for lines in (rows.sum(dim=1), columns.sum(dim=1)):
        assert lines.max() == 8
        assert lines.min() >= 4  # its middle stays inside
    assert rows.any(dim=0).all()  # it comes anywhere
    assert columns.any(dim=0).all()


@pytest.mark.parametrize("policies", [(name,) for name in POLICIES] + [POLICIES])
def test_real_and_generated_halves_are_treated_alike(policies: tuple[str, ...]) -> None:
    one, other = noise(4, low=-1), noise(4, low=-1).flip(0, 3)
    both = diff_augment(torch.cat([one, other]), policies, draws())
    swapped = diff_augment(torch.cat([other, one]), policies, draws())
    same = diff_augment(torch.cat([one, one]), policies, draws())
    assert torch.equal(both[:4], same[:4])  # what is done to an image knows nothing of the other half,
    assert torch.equal(swapped[4:], same[4:])  # nor of which half it is in


def test_discriminator_sees_both_halves_through_one_augmentation(
    trial_config: TrialConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, tuple[str, ...]]] = []

    def spy(image_signed: Tensor, policies: tuple[str, ...], numbers: Draws) -> Tensor:
        calls.append((len(image_signed), tuple(policies)))
        return diff_augment(image_signed, policies, numbers)

    monkeypatch.setattr(hidfd.stages.gan_training, "diff_augment", spy)
    config = with_values(trial_config, {"generation.smoothing.mode": "off"})
    trial = Trial(config, store, resolve_device("cpu", "fp32"), Observer())
    trial.run("collection")
    AdversarialTraining(trial.config, trial.inputs.collection, trial.inputs.teacher, trial.device).step(0)
    assert calls == [(16, POLICIES), (8, POLICIES)]  # D's step: real and generated; G's: generated
