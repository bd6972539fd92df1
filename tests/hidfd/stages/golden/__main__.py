"""`python -m tests.hidfd.stages.golden` writes golden files of stages with a new VERSION or further numbers."""

import sys

import torch

from hidfd.pipeline.graph import VERSIONS
from tests.hidfd.stages.golden.comparison import complaint, has_more, read, write
from tests.hidfd.stages.golden.runs import STAGES, compute


def main() -> int:
    """Write what is missing, of another version or has further numbers; refuse what changed under the same version."""
    torch.set_num_threads(1)
    refused = 0
    for stage in STAGES:
        golden, numbers = read(stage), compute(stage)
        if golden is not None and golden["version"] == VERSIONS[stage] and not has_more(golden, numbers):
            text = complaint(stage, golden, VERSIONS[stage], numbers)
            refused += text is not None
            print(text or f"{stage}: as it was")
        else:
            write(stage, numbers)
            print(f"{stage}: written")
    return min(refused, 1)


if __name__ == "__main__":
    sys.exit(main())
