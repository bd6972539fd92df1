"""Quantities of Kubernetes, such as `500m`, `32Gi` and `2`."""

from __future__ import annotations

import re
from decimal import Decimal

PATTERN = r"(\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"

_FACTORS = {"": Decimal(1), "k": Decimal(1000)}
_FACTORS |= {letter: Decimal(1000) ** -power for power, letter in enumerate("mun", start=1)}
_FACTORS |= {letter: Decimal(1000) ** power for power, letter in enumerate("MGTPE", start=2)}
_FACTORS |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}


def amount(quantity: str | int | float) -> float:
    """Return a quantity as a number in its resource's own unit: processors, bytes or pieces.

    Raises:
        ValueError: it is no quantity.
    """
    match = re.fullmatch(PATTERN, str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity; expected a number with a suffix, such as 500m or 32Gi")
    return float(Decimal(match[1]) * _FACTORS[match[2] or ""])
