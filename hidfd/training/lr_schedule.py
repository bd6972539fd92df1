"""Learning-rate factors over a run's progress."""

import math


def warmup_cosine(progress: float, warmup_fraction: float) -> float:
    """Return the factor, in [0, 1], at `progress` in [0, 1]: linear up to `warmup_fraction`, then a cosine to zero."""
    if progress < warmup_fraction:
        return progress / warmup_fraction
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_fraction) / max(1e-9, 1 - warmup_fraction)))
