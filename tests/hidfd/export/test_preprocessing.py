"""A photo has the same pixels in an exported folder as after an import, whatever it is."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from hidfd.data.decoding import decode
from hidfd.export.formats import Format
from hidfd.export.preprocessing import CLASSIFY, PREPROCESS, Preprocessing

DRAWS = np.random.default_rng(0)
COLOURS = Image.fromarray(DRAWS.integers(0, 256, (61, 45, 3), dtype=np.uint8))


def jpeg(path: Path) -> None:
    COLOURS.save(path.with_suffix(".jpg"), quality=80)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    COLOURS.save(path.with_suffix(".jpg"), exif=exif)


def cmyk(path: Path) -> None:
    COLOURS.convert("CMYK").save(path.with_suffix(".jpg"))


def transparent(path: Path) -> None:
    image = COLOURS.convert("RGBA")
    image.putalpha(Image.fromarray(DRAWS.integers(0, 256, (61, 45), dtype=np.uint8)))
    image.save(path.with_suffix(".png"))


def transparent_palette(path: Path) -> None:
    COLOURS.convert("P").save(path.with_suffix(".png"), transparency=7)


def grey_and_alpha(path: Path) -> None:
    COLOURS.convert("LA").save(path.with_suffix(".png"))


def sixteen_bits(path: Path) -> None:
    Image.fromarray(DRAWS.integers(0, 65536, (33, 50), dtype=np.uint16)).save(path.with_suffix(".png"))


def negative(path: Path) -> None:
    image = Image.fromarray(DRAWS.integers(0, 65536, (33, 50), dtype=np.uint16))
    image.save(path.with_suffix(".tiff"), tiffinfo={262: 0})


def animated(path: Path) -> None:
    frames = [COLOURS.convert("P"), COLOURS.rotate(90).convert("P")]
    frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])


def of_the_very_size(path: Path) -> None:
    COLOURS.resize((28, 28)).save(path.with_suffix(".png"))


def smaller(path: Path) -> None:
    COLOURS.resize((9, 20)).save(path.with_suffix(".webp"), lossless=True)


PHOTOS = [
    jpeg,
    turned,
    cmyk,
    transparent,
    transparent_palette,
    grey_and_alpha,
    sixteen_bits,
    negative,
    animated,
    of_the_very_size,
    smaller,
]


def script(settings: Preprocessing, folder: Path) -> dict[str, Any]:
    """Return what `preprocess.py` of an exported folder defines."""
    (folder / PREPROCESS).write_text(settings.scripts("onnx")[PREPROCESS])
    return runpy.run_path(str(folder / PREPROCESS))


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("write", PHOTOS, ids=lambda write: write.__name__)
def test_photo_has_the_pixels_of_an_import(
    write: Callable[[Path], None], channels: int, fit: Literal["crop", "pad"], tmp_path: Path
) -> None:
    write(tmp_path / "photo")
    [path] = tmp_path.iterdir()
    imported = decode([path], channels, 28, fit)
    assert not imported.broken
    image = script(Preprocessing(channels, 28, fit), tmp_path)["read_image"](str(path))
    pixels = np.asarray(image).reshape(28, 28, channels).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels, imported.pixels[0])


@pytest.mark.parametrize("format_", ["onnx", "torch"])
def test_example_is_ten_lines_of_python(format_: Format) -> None:
    text = Preprocessing(3, 32, "crop").scripts(format_)[CLASSIFY]
    compile(text, CLASSIFY, "exec")
    *_, body = text.partition("read_image\n\n")
    assert 0 < len(body.strip().splitlines()) <= 10
    assert max(map(len, text.splitlines())) <= 120


def test_weights_alone_have_no_example() -> None:
    assert Preprocessing(3, 32, "crop").scripts("safetensors") == {}


def test_settings_in_words_are_read_back_and_wrong_ones_refused() -> None:
    settings = Preprocessing(1, 28, "pad")
    described = json.loads(json.dumps(settings.to_json(3, (0.3,), (0.2,))))
    assert Preprocessing.from_json(described) == settings
    assert described["input"]["shape"] == ["batch", 1, 28, 28]
    assert described["input"]["range"] == [0, 1]
    assert described["normalisation_inside_the_network"] == {"mean": [0.3], "std": [0.2]}
    with pytest.raises(ValueError, match="fit 'stretch'"):
        Preprocessing.from_json(described | {"fit": "stretch"})


def test_functions_of_the_import_need_nothing_of_this_project() -> None:
    text = Preprocessing(1, 28, "crop").scripts("onnx")[PREPROCESS]
    assert "hidfd" not in text
    assert "def in_mode(" in text
    assert "def fit_image(" in text
