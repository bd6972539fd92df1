"""Write the folder that a machine without a network needs beside the project: wheels and images, at most 64 MiB.

python -m benchmarks.gpu.carry FILE.parquet [FILE.parquet ...] [--folder gpu-carry]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hidfd.errors import ConfigError, HidfdError, InputError

ROOT = Path(__file__).parents[2]

MAX_BYTES = 64 << 20

MISSING = ("pydantic",)
"""What a trial needs beside the packages of a usual image: torch, torchvision, numpy, pyarrow, Pillow, PyYAML, rich,
safetensors and pytest. Its own dependencies come with it."""

PLATFORM = ("--implementation", "cp", "--python-version", "3.12", "--platform", "manylinux2014_x86_64")


def main(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="make gpu-carry DATA=", description="wheels and images for `make gpu`")
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE.parquet", help="images, e.g. a shard of CIFAR-10")
    parser.add_argument("--folder", type=Path, default=ROOT / "gpu-carry", help="to write (gpu-carry)")
    chosen = parser.parse_args(arguments)
    try:
        size = carry(chosen.files, chosen.folder)
    except HidfdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{chosen.folder}: {size / 2**20:.1f} MiB. Copy it beside the project and run: make gpu")
    return 0


def carry(files: list[Path], folder: Path) -> int:
    """Write the folder anew and return its bytes; after an error it is as it was.

    Args:
        files: Parquet files as `benchmarks.gpu.images.cut` reads them; none = the quickstart's images are used.

    Raises:
        ConfigError: the folder exists and was not written by this command.
        InputError: a file does not exist or is no Parquet file, two have one name, or all of them are too large.
        HidfdError: the wheels could not be had.
    """
    for file in files:
        if not file.is_file() or file.suffix != ".parquet":
            raise InputError(f"DATA: {file}: no such Parquet file")
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f"DATA: two files are called {repeated}; one would replace the other, rename one")
    total = sum(file.stat().st_size for file in files)
    if total > MAX_BYTES:
        raise InputError(f"DATA: {total / 2**20:.1f} MiB of images, at most {MAX_BYTES >> 20} MiB; name fewer shards")
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {"wheels", "data"}):
        raise ConfigError(f"--folder {folder}: holds other files than this command writes; name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-") as made:
        new = Path(made)
        _download(new / "wheels")
        if files:
            (new / "data").mkdir()
        for file in files:
            shutil.copyfile(file, new / "data" / file.name)
        size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            raise InputError(
                f"{folder}: {size / 2**20:.1f} MiB with wheels, at most {MAX_BYTES >> 20}; name fewer shards"
            )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for part in new.iterdir():
            part.replace(folder / part.name)
    return size


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", *PLATFORM]
    command += ["--constraint", str(ROOT / "requirements.lock"), "--dest", str(folder), *MISSING]
    if subprocess.run(command, check=False).returncode != 0:
        raise HidfdError(f"{' '.join(command)} failed, see above; it needs a package index")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
