"""Conversions between value ranges of images undo each other, and gradients pass through the resize."""

import pytest
import torch

from hidfd.data.pixels import (
    RESIZED_AT_ONCE,
    Normalization,
    resize_uint8,
    resize_unit,
    signed_from_unit,
    uint8_from_unit,
    unit_from_signed,
    unit_from_uint8,
)

EVERY_VALUE = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)


def noise(size_pixels: int, channels: int = 1, count: int = 2) -> torch.Tensor:
    return torch.rand(count, channels, size_pixels, size_pixels, generator=torch.Generator().manual_seed(0))


def test_unit_and_uint8_undo_each_other_for_every_value() -> None:
    image_unit = unit_from_uint8(EVERY_VALUE)
    assert image_unit.dtype == torch.float32
    assert (image_unit.min(), image_unit.max()) == (0, 1)
    assert torch.equal(uint8_from_unit(image_unit), EVERY_VALUE)


def test_signed_and_unit_undo_each_other_for_every_value() -> None:
    image_signed = signed_from_unit(unit_from_uint8(EVERY_VALUE))
    assert (image_signed.min(), image_signed.max()) == (-1, 1)
    assert torch.equal(uint8_from_unit(unit_from_signed(image_signed)), EVERY_VALUE)
    torch.testing.assert_close(signed_from_unit(unit_from_signed(image_signed)), image_signed)


def test_uint8_is_rounded_and_clamped() -> None:
    levels = torch.tensor([-0.2, 0.4, 0.6, 99.6, 254.4, 254.6, 300.0]).view(1, 1, 1, 7)
    assert uint8_from_unit(levels / 255).flatten().tolist() == [0, 0, 1, 100, 254, 255, 255]


def test_uint8_keeps_the_contrast_of_every_image() -> None:
    dull = 0.4 + 0.2 * noise(8)
    back = unit_from_uint8(uint8_from_unit(dull))
    torch.testing.assert_close(back, dull, atol=0.5 / 255 + 1e-6, rtol=0)


def test_uint8_of_half_precision_is_that_of_the_same_numbers_in_fp32() -> None:
    image_unit = noise(16).bfloat16()
    assert torch.equal(uint8_from_unit(image_unit), uint8_from_unit(image_unit.float()))


def test_conversions_leave_their_argument_alone() -> None:
    image_unit = noise(4)
    before = image_unit.clone()
    for convert in (uint8_from_unit, signed_from_unit, unit_from_signed):
        convert(image_unit)
    assert torch.equal(image_unit, before)


def test_resize_to_its_own_side_is_the_image_itself() -> None:
    image_unit = noise(28)
    assert resize_unit(image_unit, 28) is image_unit


@pytest.mark.parametrize("size_pixels", [7, 20, 28, 64])
def test_resize_passes_a_gradient_to_every_pixel(size_pixels: int) -> None:
    image_unit = noise(28).requires_grad_()
    resized = resize_unit(image_unit, size_pixels)
    assert resized.shape == (2, 1, size_pixels, size_pixels)
    assert resized.min() >= 0
    assert resized.max() <= 1
    resized.sum().backward()
    assert image_unit.grad is not None
    assert (image_unit.grad > 0).all()


@pytest.mark.parametrize("size_pixels", [7, 20, 64])
def test_resize_keeps_grey_grey(size_pixels: int) -> None:
    resized = resize_unit(torch.full((1, 3, 28, 28), 0.3), size_pixels)
    torch.testing.assert_close(resized, torch.full_like(resized, 0.3))


def test_resize_to_a_smaller_side_averages_rather_than_skips() -> None:
    lines = torch.zeros(1, 1, 32, 32)
    lines[..., ::4] = 1.0
    inner = resize_unit(lines, 8)[..., 2:-2]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.25), atol=0.1, rtol=0)


def test_resize_of_a_set_is_that_of_its_images_however_many_there_are() -> None:
    images_uint8 = uint8_from_unit(noise(8, count=RESIZED_AT_ONCE + 3))
    resized = resize_uint8(images_uint8, 6)
    assert torch.equal(resized, uint8_from_unit(resize_unit(unit_from_uint8(images_uint8), 6)))
    assert resize_uint8(images_uint8, 8) is images_uint8
    assert resize_uint8(images_uint8[:0], 6).shape == (0, 1, 6, 6)


def test_normalization_is_by_channel_and_has_nothing_to_train() -> None:
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.4, 0.8]
    normalization = Normalization(mean, std)
    image_unit = noise(4, channels=3)
    image_normalised = normalization(image_unit)
    for channel in range(3):
        torch.testing.assert_close(image_normalised[:, channel] * std[channel] + mean[channel], image_unit[:, channel])
    assert not list(normalization.parameters())
    assert set(normalization.state_dict()) == {"mean", "std"}
