"""The smallest study that resumes: a Ray task for each step, a checkpoint after each, both below FOLDER.

python resuming_study.py FOLDER SETTINGS     SETTINGS is a file with the number of steps
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray


@ray.remote(num_cpus=1)
def work(step: int) -> int:
    """A step."""
    time.sleep(0.5)
    return step * step


def main(folder: Path, settings: Path) -> None:
    """Goes on from the checkpoint."""
    num_steps = int(settings.read_text())
    checkpoint = folder / "checkpoint.json"
    state: dict[str, Any] = {"step": 0, "attempts": []}
    if checkpoint.exists():
        state = json.loads(checkpoint.read_text())
    saw = {name: os.environ.get(name) for name in ("STUDY_SECRET", "RAY_AUTH_MODE", "HTTP_PROXY")}
    state["attempts"].append({"pid": os.getpid(), "from": state["step"], "folder": str(Path.cwd()), **saw})
    print(f"attempt {len(state['attempts'])} starts at step {state['step']}", flush=True)
    ray.init()
    while state["step"] < num_steps:
        value = ray.get(work.remote(state["step"]))
        state["step"] += 1
        part = checkpoint.with_suffix(".part")
        part.write_text(json.dumps(state))
        part.replace(checkpoint)
        print(f"step {state['step']} value {value}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
