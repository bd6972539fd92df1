"""Every kind of image is decoded to upright uint8 pixels of one size; unreadable files are listed with a reason."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hidfd.data.decoding import decode, fit_image, open_image, pixel_hash, silent_pillow

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


def file_of(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def reason_for(source: Path | bytes) -> str:
    with silent_pillow():
        return decode([source], 3, 8, "crop").broken[0]


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".tif", ".TIFF", ".webp", ".jfif"])
def test_other_formats_are_read_under_their_names(tmp_path: Path, suffix: str) -> None:
    kind = {".tif": "TIFF", ".TIFF": "TIFF", ".jfif": "JPEG"}.get(suffix, suffix[1:].upper())
    image = Image.fromarray(np.indices((12, 20)).sum(0).astype(np.uint8) * 4)
    pixels = np.asarray(open_image(file_of(tmp_path, f"x{suffix}", coded(image, kind)), 1))
    assert np.abs(pixels.astype(int) - np.asarray(image)).max() <= (0 if kind in ("BMP", "GIF", "TIFF") else 12)


@pytest.mark.parametrize(("suffix", "kind"), [("gif", "GIF"), ("tif", "TIFF"), ("webp", "WEBP"), ("png", "PNG")])
def test_first_frame_or_page_counts(tmp_path: Path, suffix: str, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    black = Image.new("RGB", (8, 8))
    path = file_of(tmp_path, f"x.{suffix}", coded(RED, kind, save_all=True, append_images=[black, RED], **options))
    assert np.abs(np.asarray(open_image(path, 3)).astype(int) - np.asarray(RED)).max() <= 2


def test_content_decides_under_a_name_of_the_formats_that_came_later(tmp_path: Path) -> None:
    path = file_of(tmp_path, "x.gif", coded(RGB, "BMP"))
    np.testing.assert_array_equal(np.asarray(open_image(path, 3)), np.asarray(RGB))


def test_sixteen_bit_tiff_of_either_byte_order_is_scaled_to_eight(tmp_path: Path) -> None:
    for kind in ("<u2", ">u2"):
        wide = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=kind))
        path = file_of(tmp_path, "x.tif", coded(wide, "TIFF"))
        assert np.asarray(open_image(path, 1)).tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_whose_largest_number_is_black_comes_out_positive(tmp_path: Path, bits: int) -> None:
    numbers = np.array([[0, 2**bits - 1]], dtype=f"u{bits // 8}")
    content = bytearray(coded(Image.fromarray(numbers), "TIFF"))
    content[content.index(b"\x06\x01\x03\0") + 8] = 0  # the tag of what zero means
    assert np.asarray(open_image(file_of(tmp_path, "x.tif", bytes(content)), 1)).tolist() == [[255, 0]]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_tiff_of_numbers_without_a_known_range_is_no_image(tmp_path: Path, kind: type) -> None:
    path = file_of(tmp_path, "x.tif", coded(Image.fromarray(np.ones((4, 4), dtype=kind)), "TIFF"))
    assert "save it with 8 or 16 bits" in reason_for(path)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_name_of_a_jpeg_over_another_format_is_said_with_the_way_out(tmp_path: Path, kind: str) -> None:
    content = coded(RGB, kind)
    expected = f"is a {kind}, not a JPEG, PNG or WebP"
    assert reason_for(content) == expected
    assert reason_for(file_of(tmp_path, "x.jpg", content)).startswith(f"{expected}; under a name that ends in")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (bytes(999), "holds nothing but zeros"),
        (b"hello", "is no image that is known"),
        (b"\n<!DOCTYPE html><html>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "is a HEIC"),
        (b"%PDF-1.7", "is a PDF"),
        (b"\x89PNG" + bytes(20), "is a damaged PNG"),
        (coded(RGB)[:20], "Truncated File Read"),
        (coded(RGB, "JPEG")[:-200], "image file is truncated"),
    ],
)
def test_reason_says_what_a_file_is_instead(content: bytes, reason: str) -> None:
    assert reason_for(content).startswith(reason)


def test_image_of_too_many_pixels_is_not_unpacked() -> None:
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    assert reason_for(content).startswith("Image size (3600000000 pixels) exceeds limit")


def test_whatever_error_damaged_exif_raises_concerns_that_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (TypeError("x"), KeyError(1), AttributeError("y"), RecursionError()):
        monkeypatch.setattr("hidfd.data.decoding.ImageOps.exif_transpose", lambda image, error=error: raise_(error))
        assert "has damaged EXIF" in reason_for(coded(RGB))


def raise_(error: Exception) -> None:
    raise error


def test_damaged_exif_and_what_pillow_says_of_it_are_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    jpeg = coded(RGB, "JPEG")
    exif = b"\xff\xe1\x00\x1eExif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\xff\xff\xff\xff\6\0\0\0"
    with silent_pillow():
        assert decode([jpeg[:2] + exif + jpeg[2:]], 3, 8, "crop").broken == {}
    assert capfd.readouterr() == ("", "")


def test_damaged_tiff_is_not_printed_by_its_library(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(coded(RGB, "TIFF", compression="tiff_lzw"))
    content[8:200] = bytes(192)
    assert reason_for(file_of(tmp_path, "x.tif", bytes(content)))
    assert capfd.readouterr() == ("", "")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    reasons = {name: reason_for(tmp_path / f"{name}.png") for name in ("pipe", "folder", "link", "loop")}
    assert reasons == {
        "pipe": "is no regular file",
        "folder": "is no regular file",
        "link": "is a link to nowhere",
        "loop": "is a link that leads to itself",
    }


def test_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "film.png").open("wb") as file:
        file.truncate(3 << 30)  # a hole, which takes no space
    assert reason_for(tmp_path / "film.png") == "has 3 GiB, more than any image that can be read"


def test_bytes_changed_at_random_are_read_or_have_a_reason_of_one_line(tmp_path: Path) -> None:
    draws = random.Random(0)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "maker"
    seeds = [coded(RGB, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
    seeds += [coded(RGB.convert("P"), kind) for kind in ("GIF", "BMP", "PNG", "TIFF")]
    seeds += [coded(RGB, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits")]
    with silent_pillow():
        for number in range(300):
            content = bytearray(draws.choice(seeds))
            for _ in range(draws.choice([1, 2, 8])):
                content[draws.randrange(min(len(content), 300))] = draws.choice([0, 255, draws.randrange(256)])
            content = content[: draws.choice([len(content), draws.randrange(len(content))])]
            decoded = decode([file_of(tmp_path, "x.tif", bytes(content))], 1 + 2 * (number % 2), 8, "crop")
            for reason in decoded.broken.values():
                assert reason.isprintable(), reason
                assert " at 0x" not in reason
