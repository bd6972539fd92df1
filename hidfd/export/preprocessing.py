"""The way from a photo to an exported network's input: in words, and as the two Python files of an exported folder.

`preprocess.py` holds the functions that the import itself uses, so that a photo has the same pixels elsewhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from hidfd.config.schema import DataConfig
from hidfd.data.decoding import PHOTOMETRIC_INTERPRETATION, WHITE_IS_ZERO, fit_image, in_mode
from hidfd.export.formats import INPUT, NETWORK_FILES, OUTPUT, Format

PREPROCESS, CLASSIFY = "preprocess.py", "classify.py"
"""Names of the Python files."""

PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnxruntime", "pillow", "numpy"),
    "torch": ("torch", "pillow"),
    "safetensors": ("hidfd",),
}
"""Format -> packages that are enough to classify photos with it."""

_PREPROCESS = '''"""Photos as the network takes them: upright, {colours}, {side} x {side} pixels. Needs Pillow."""

from __future__ import annotations

import contextlib
from typing import Literal

from PIL import Image, ImageOps

with contextlib.suppress(ImportError):  # images of 16 bits alone need it
    import numpy as np

CHANNELS, SIDE, FIT = {channels}, {side}, "{fit}"


def read_image(path: str) -> Image.Image:
    """Return a photo of any size and colour mode as {side} x {side} pixels in 0..255 ({colours})."""
    with Image.open(path) as opened:
        is_negative = opened.mode.startswith("I;16") and getattr(opened, "tag_v2", {{}}).get({tag}) == {white}
        image = ImageOps.exif_transpose(opened)
    if is_negative:
        image = Image.fromarray(65535 - np.asarray(image))
    return fit_image(in_mode(image, "L" if CHANNELS == 1 else "RGB"), SIDE, FIT)


{functions}'''

_CLASSIFY_ONNX = '''"""Name the class of photos: python classify.py PHOTO ... Needs onnxruntime, pillow and numpy."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from preprocess import CHANNELS, SIDE, read_image

folder = Path(__file__).parent
labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
network = onnxruntime.InferenceSession(str(folder / "{network}"))
for path in sys.argv[1:]:
    pixels = np.asarray(read_image(path), np.float32).reshape(SIDE, SIDE, CHANNELS)
    images = pixels.transpose(2, 0, 1)[None] / 255  # a batch of one image in [0, 1]
    logits = network.run(["{output}"], {{"{input}": images}})[0][0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{{path}}: {{labels[shares.argmax()]}} ({{shares.max():.1%}})")
'''

_CLASSIFY_TORCH = '''"""Name the class of photos: python classify.py PHOTO ... Needs torch and pillow."""

import json
import sys
from pathlib import Path

import torch
from preprocess import CHANNELS, SIDE, read_image

folder = Path(__file__).parent
labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
network = torch.export.load(str(folder / "{network}")).module()
for path in sys.argv[1:]:
    pixels = torch.frombuffer(bytearray(read_image(path).tobytes()), dtype=torch.uint8)
    images = pixels.view(SIDE, SIDE, CHANNELS).permute(2, 0, 1)[None] / 255  # a batch of one image in [0, 1]
    shares = network(images)[0].softmax(dim=0)
    print(f"{{path}}: {{labels[int(shares.argmax())]}} ({{float(shares.max()):.1%}})")
'''

_CLASSIFY: dict[Format, str] = {"onnx": _CLASSIFY_ONNX, "torch": _CLASSIFY_TORCH}


@dataclass(frozen=True)
class Preprocessing:
    """The images that a network takes.

    Attributes:
        channels: 1 = grey, 3 = RGB.
        image_size_pixels: side of the squares.
        fit: see `hidfd.data.decoding.fit_image`.
    """

    channels: int
    image_size_pixels: int
    fit: Literal["crop", "pad"]

    @classmethod
    def of(cls, data: DataConfig) -> Self:
        """Return the preprocessing of a trial's images."""
        return cls(data.channels, data.image_size_pixels, data.fit)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the preprocessing that `to_json` wrote as this."""
        channels, side, fit = content["channels"], content["image_size_pixels"], content["fit"]
        if channels not in (1, 3) or not isinstance(side, int) or fit not in ("crop", "pad"):
            raise ValueError(f"channels {channels!r}, image_size_pixels {side!r}, fit {fit!r}")
        return cls(channels, side, fit)

    def to_json(self, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
        """Return plain JSON for people and programs, with what the network normalises by itself."""
        side = self.image_size_pixels
        return {
            "input": {
                "name": INPUT,
                "type": "float32",
                "shape": ["batch", self.channels, side, side],
                "range": [0, 1],
            },
            "output": {"name": OUTPUT, "type": "float32", "shape": ["batch", num_classes]},
            "channels": self.channels,
            "image_size_pixels": side,
            "fit": self.fit,
            "steps": list(self.steps),
            "normalisation_inside_the_network": {"mean": list(mean), "std": list(std)},
        }

    @property
    def colours(self) -> str:
        """The colours in words."""
        return "grey" if self.channels == 1 else "RGB"

    @property
    def steps(self) -> tuple[str, ...]:
        """Return what is done to a photo, in order."""
        size = f"{self.image_size_pixels} x {self.image_size_pixels}"
        fitted = {
            "crop": f"the largest centred square is resized to {size} (Pillow's ImageOps.fit, bicubic)",
            "pad": f"centred on black of {size}, shrunk if it does not fit (Pillow's ImageOps.contain, bicubic)",
        }[self.fit]
        return (
            "EXIF rotation is applied",
            f"transparency is put on white, 16 bits are scaled to 8, then the image is converted to {self.colours}",
            f"{fitted}; an image of {size} stays as it is",
            "channels first, as float32, divided by 255; mean and std are not subtracted, the network does that itself",
        )

    def scripts(self, format_: Format) -> dict[str, str]:
        """Return name -> text of the Python files that an exported folder has; none for weights alone."""
        if format_ not in _CLASSIFY:
            return {}
        classify = _CLASSIFY[format_].format(network=NETWORK_FILES[format_], input=INPUT, output=OUTPUT)
        preprocess = _PREPROCESS.format(
            colours=self.colours,
            channels=self.channels,
            side=self.image_size_pixels,
            fit=self.fit,
            tag=PHOTOMETRIC_INTERPRETATION,
            white=WHITE_IS_ZERO,
            functions="\n\n".join(inspect.getsource(function) for function in (in_mode, fit_image)),
        )
        return {PREPROCESS: preprocess, CLASSIFY: classify}
