"""The README is short, and its Python block runs as it is printed."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import yaml

from hidfd import studyfile
from k8s.config import ClusterConfig
from tests.docs.pages import README, ROOT, text_of
from tests.hidfd.miniature import build_world, miniature
from tune.study.config import SearchConfig, StudyConfig

MAX_WORDS = 1500

STUDY_FILE = "studies/quickstart.yaml"


def test_it_is_read_to_its_end() -> None:
    assert len(text_of(README).split()) <= MAX_WORDS


def test_its_study_file_is_valid(tmp_path: Path) -> None:
    """The blocks that begin with a section of a study file, put together as the README says."""
    blocks = re.findall(r"(?:^    .*\n)+", text_of(README), re.MULTILINE)
    sections = [textwrap.dedent(block) for block in blocks if re.match(r"    (name|study|storage):", block)]
    (tmp_path / "mine.yaml").write_text("".join(sections))
    file = studyfile.load(tmp_path / "mine.yaml", environment=None)
    assert file.trial().preset == "quick"
    assert file.section("study", StudyConfig).num_students == 24
    assert len(dict(file.section("search", SearchConfig).items())) == 2
    assert file.section("cluster", ClusterConfig).namespace == "studies"


def test_its_python_block_runs(tmp_path: Path) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```$", text_of(README), re.MULTILINE | re.DOTALL)
    assert STUDY_FILE in block
    config = miniature(build_world(tmp_path)).model_dump(mode="json")
    study = {"name": "tiny", "storage": {"store": str(tmp_path / "store")}, "trial": config}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study))
    program = block.replace(STUDY_FILE, str(tmp_path / "tiny.yaml"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{program}\nprint(type(student).__name__)"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    agreement, student = done.stdout.split()[-2:]
    assert 0 <= float(agreement) <= 1
    assert student == "DeployedStudent"
