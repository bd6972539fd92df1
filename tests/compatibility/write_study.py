"""Write, with the code of an older version, the study that the tests of this folder open with today's.

    git worktree add /tmp/older COMMIT
    python -m tests.compatibility.write_study /tmp/older /tmp/hidfd-study tests/compatibility/COMMIT.tar.xz

In that folder the older version runs a study of four students to its end, then asks for a fifth one and is interrupted
in the middle of its generator. The archive holds study file, photos, teacher, ledger, store and mlflow.db as they are
then. `status.json`, beside them, is what the older version says after it has gone on to the end in a copy.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import yaml

PROGRAM = """
from pathlib import Path
from tests.integration.conftest import tiny_workplace
tiny_workplace(Path("."))
"""

STUDY = {
    "objective": "agreement",
    "num_students": 4,
    "students_per_generator": 2,
    "concurrency": 1,
    "startup_students": 3,
    "pruner": {"kind": "asha", "first_rung_fraction": 0.5, "reduction_factor": 2},
    "controls": {"plain_kd_learning_rate": 0.2},
    "seeds": [1001],
}
SEARCH = {
    "distillation.inflation": {"type": "float", "low": 5, "high": 200, "log": True},
    "generation.smoothing.temperature": {"type": "float", "low": 0.5, "high": 4, "log": True},
}
MORE = "study.num_students=5"
KEPT = (
    "study.yaml",
    "photos",
    "held",
    "teacher.safetensors",
    "status.json",
    ".hidfd/ledger.db",
    ".hidfd/mlflow.db",
    ".hidfd/store",
)


def write_study(older: Path, folder: Path, archive: Path) -> None:
    """Run the study in `folder` with the code in `older`, and pack it into `archive` (`.tar.xz`).

    Args:
        older: a checkout of the older version; this environment has what it needs.
        folder: an empty folder, or none yet.
        archive: is written.
    """
    folder.mkdir(parents=True)
    environment = os.environ | {
        "PYTHONPATH": str(older.absolute()),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "1",
    }

    def start(*words: str, where: Path = folder) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *words], cwd=where, env=environment, stdout=subprocess.PIPE, text=True)

    def run(*words: str, where: Path = folder) -> str:
        process = start(*words, where=where)
        out, _ = process.communicate()
        assert process.returncode == 0, f"{words}: exit code {process.returncode}"
        return out

    run("-c", PROGRAM)
    study = yaml.safe_load((folder / "study.yaml").read_text()) | {
        "name": "written-before",
        "study": STUDY,
        "search": SEARCH,
    }
    trial = study["trial"]
    trial["data"]["test"] = {"path": "held"}
    trial["generation"] |= {"target_images": 800, "grid_every_images": 400, "proxies_every_images": 400}
    trial["generation"]["integration"] = {"hidden_width": 16}
    trial["distillation"] |= {"target_images": 640, "measure_every_images": 320}
    trial |= {"log_every_images": 160, "checkpoint_every_seconds": 0.1}
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))

    run("-m", "tune", "run", "study.yaml", "--engine", "local")
    checkpoints = folder / ".hidfd" / "store" / "checkpoints"
    trained = set(checkpoints.iterdir())
    process = start("-m", "tune", "run", "study.yaml", "--engine", "local", MORE)
    while process.poll() is None and set(checkpoints.iterdir()) == trained:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130, f"exit code {process.returncode}: it ended before it was interrupted"

    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    run("-m", "tune", "run", "study.yaml", "--engine", "local", MORE, where=copy)
    (folder / "status.json").write_text(run("-m", "tune", "status", "study.yaml", MORE, "--json", where=copy))
    shutil.rmtree(copy)
    with tarfile.open(archive, "w:xz") as packed:
        for name in KEPT:
            packed.add(folder / name, name)


if __name__ == "__main__":
    write_study(*map(Path, sys.argv[1:]))
