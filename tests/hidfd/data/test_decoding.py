"""Every kind of JPEG and PNG is decoded to upright uint8 pixels of one size; unreadable files are listed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hidfd.data.decoding import decode, fit_image, open_image, pixel_hash

ORIENTATION = 0x0112


def coded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(content: bytes, channels: int = 3) -> np.ndarray:
    return np.asarray(open_image(content, channels))


RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8))
RED = Image.new("RGB", (8, 8), (254, 0, 0))


def test_rgb_png_keeps_its_very_pixels() -> None:
    np.testing.assert_array_equal(pixels_of(coded(RGB)), np.asarray(RGB))


def test_grey_image_serves_both_channel_counts() -> None:
    grey = RGB.convert("L")
    np.testing.assert_array_equal(pixels_of(coded(grey), 1), np.asarray(grey))
    for channel in range(3):
        np.testing.assert_array_equal(pixels_of(coded(grey), 3)[:, :, channel], np.asarray(grey))


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "L", "RGB"])
def test_colour_modes_come_out_as_asked(mode: str) -> None:
    content = coded(RED.convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    assert pixels_of(content, 3).shape == (8, 8, 3)
    assert pixels_of(content, 1).shape == (8, 8)
    if mode in ("P", "CMYK", "RGB"):
        assert np.abs(pixels_of(content, 3)[4, 4].astype(int) - [254, 0, 0]).max() <= 4


def test_sixteen_bits_are_scaled_to_eight() -> None:
    wide = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert pixels_of(coded(wide), 1).tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(mode: str) -> None:
    image = Image.new(mode, (2, 1), (0,) * len(mode))
    image.putpixel((1, 0), (0,) * (len(mode) - 1) + (255,))
    assert pixels_of(coded(image)).tolist() == [[[255, 255, 255], [0, 0, 0]]]


def test_transparent_palette_entry_lies_on_white() -> None:
    image = RED.convert("P")
    content = coded(image, transparency=image.getpixel((0, 0)))
    assert (pixels_of(content) == 255).all()


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: show it turned by 90 degrees clockwise
    expected = np.rot90(np.asarray(RGB), k=-1)
    np.testing.assert_array_equal(pixels_of(coded(RGB, exif=exif)), expected)
    assert open_image(coded(RGB, "JPEG", exif=exif), 3).size == (12, 20)


def test_crop_takes_the_centre_square() -> None:
    wide = Image.new("L", (30, 10), 0)
    wide.paste(200, (10, 0, 20, 10))
    assert (np.asarray(fit_image(wide, 10, "crop")) == 200).all()
    assert fit_image(wide, 4, "crop").size == (4, 4)
    assert fit_image(Image.new("L", (5, 3)), 8, "crop").size == (8, 8)


def test_pad_centres_on_black_and_never_enlarges() -> None:
    small = fit_image(Image.new("L", (28, 28), 200), 32, "pad")
    inside = np.zeros((32, 32), dtype=np.uint8)
    inside[2:30, 2:30] = 200
    np.testing.assert_array_equal(np.asarray(small), inside)
    wide = np.asarray(fit_image(Image.new("L", (64, 32), 200), 32, "pad"))
    assert wide.shape == (32, 32)
    assert (wide[8:24] == 200).all()
    assert (wide[:8] == 0).all()
    assert (wide[24:] == 0).all()


def test_broken_ones_are_listed_and_the_others_keep_their_order(tmp_path: Path) -> None:
    content = coded(RGB)
    (tmp_path / "a.png").write_bytes(content)
    sources = [content, content[:60], b"", b"no image", None, tmp_path / "missing.png", tmp_path / "a.png"]
    decoded = decode(sources, 3, 8, "crop")
    assert sorted(decoded.broken) == [1, 2, 3, 4, 5]
    assert all(decoded.broken.values()), "each with a reason"
    assert decoded.pixels.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(decoded.pixels[0], decoded.pixels[1])
    assert decoded.pixel_hashes[0] == decoded.pixel_hashes[1] == pixel_hash(np.asarray(RGB))


def test_pixel_hash_names_pixels_and_shape_not_coding() -> None:
    png, jpeg = coded(RGB), coded(RGB, "JPEG")
    again = coded(RGB, compress_level=0)
    hashes = decode([png, again, jpeg], 3, 8, "crop").pixel_hashes
    assert hashes[0] == hashes[1] != hashes[2]
    flat = np.arange(12, dtype=np.uint8)
    assert pixel_hash(flat.reshape(2, 6, 1)) != pixel_hash(flat.reshape(6, 2, 1))


def test_pixel_hash_is_the_one_of_the_committed_hashes() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 6, 1)
    expected = hashlib.sha256(b"(2, 6, 1)" + bytes(range(12))).digest()[:8]
    assert pixel_hash(pixels).to_bytes(8, "big") == expected


def test_pixel_hash_does_not_depend_on_size_or_fit() -> None:
    hashes = {int(decode([coded(RGB)], 3, side, "crop").pixel_hashes[0]) for side in (8, 16, 32)}
    hashes |= {int(decode([coded(RGB)], 3, 16, "pad").pixel_hashes[0])}
    assert len(hashes) == 1
