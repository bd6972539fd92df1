"""A study's ledger that lies elsewhere than its storage says, since relative places are those of the working directory.

Whoever gives a command in another folder than the study was run in would find no ledger, and begin it anew.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hidfd.addresses import SQLITE, absolute_address, path_at
from hidfd.config.storage import StorageConfig
from hidfd.config.study_file import StudyFile
from hidfd.config.yaml_tree import COMMAND_LINE
from tune.errors import LedgerError
from tune.ledger.opening import has_study


@dataclass(frozen=True)
class Elsewhere:
    """Another ledger that has a study.

    Attributes:
        name: of the study.
        looked: where its storage says that the ledger is, absolute.
        found: path of the other ledger.
        folder: from where the study file leads to that ledger; None if it leads there from nowhere.
        is_chosen: whether the place where nothing was found was named on the command line or by the environment.
    """

    name: str
    looked: str
    found: Path
    folder: Path | None
    is_chosen: bool

    def error(self, program: Sequence[str], file: str, rest: Sequence[str], *, begins: bool = False) -> LedgerError:
        """Return what to say instead of beginning anew.

        Args:
            program: the words in front of the study file, such as `python -m tune status`.
            file: the study file, as it was given.
            rest: the words behind it.
            begins: whether the command would begin the study.
        """
        rest = [word for word in rest if not word.startswith("storage.ledger=")]
        words = [*program, os.path.relpath(Path(file).absolute(), self.folder or Path.cwd()), *rest]
        if self.folder is None:
            there = f"name it: {shlex.join([*words, f'storage.ledger={self.found}'])}"
        else:
            there = (
                f"it was run from {self.folder}, and relative places of `storage:` are those of the working "
                f"directory; go there: cd {shlex.quote(str(self.folder))} && {shlex.join(words)}"
            )
        anew = ""
        if begins:
            here = shlex.join([*program, file, *rest, f"storage.ledger={self.looked}"])
            anew = f"\nnothing was written; to begin it anew here: {here}"
        return LedgerError(
            f"study {self.name!r} is not in the ledger {self.looked}, but in {self.found}: {there}{anew}"
        )


def find_elsewhere(file: StudyFile) -> Elsewhere | None:
    """Look for a study that its ledger does not have: beside the study file, in this folder, and in those above both.

    Returns:
        The ledger that has it; None if the study's own one does, or if none of these does.

    Raises:
        LedgerError: the study's own ledger cannot be read.
    """
    address = file.storage.ledger
    if has_study(address, file.name):
        return None
    own = absolute_address(address)
    for folder in _folders(file.path):
        for given in dict.fromkeys((address, StorageConfig().ledger)):
            if "://" in given.removeprefix(SQLITE):
                continue
            path = folder / path_at(given)
            if absolute_address(str(path)) != own.removeprefix(SQLITE) and _has(path, file.name):
                leads = given == address and not path_at(given).is_absolute()
                chosen = file.storage_origins["ledger"] in (COMMAND_LINE, "HIDFD_LEDGER")
                return Elsewhere(file.name, own, path, folder if leads else None, chosen)
    return None


def _folders(file: Path) -> Iterator[Path]:
    """Yield the study file's folder, this one, and those above them, each once."""
    here, beside = Path.cwd(), Path(os.path.normpath(file.absolute().parent))
    yield from dict.fromkeys((beside, here, *beside.parents, *here.parents))


def _has(path: Path, name: str) -> bool:
    """Whether a file is a ledger that has a study; no file is made, and none that cannot be read counts."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT 1 FROM studies WHERE study_name = ?", (f"{name}/work",)).fetchone()
            return found is not None
    except sqlite3.Error:  # of another program, or damaged
        return False
