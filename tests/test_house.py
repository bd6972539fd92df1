"""House rules: folders that can be taken in at a glance, one class for one name, docstrings in the field's words."""

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hidfd", "tune", "k8s")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES})

WORDS_OF_OURS = ("piece of work", "pieces of work", "looks on", "look on", "stands", "is deaf")
"""Words that only insiders understand; the field has others."""

RECORDED = {"k8s/preflight/check.py": ("piece of work", "pieces of work")}
"""Words that stay in data which programs read."""

OPENINGS = frozenset(
    {
        "what",
        "of",
        "where",
        "as",
        "to",
        "by",
        "in",
        "for",
        "from",
        "who",
        "whose",
        "which",
        "why",
        "how",
        "its",
        "it",
        "those",
        "everything",
        "something",
        "nothing",
        "nobody",
        "somebody",
        "whoever",
        "whatever",
    }
)
"""First words of a docstring that neither does something nor names something."""


def documented() -> Iterator[tuple[str, str]]:
    """Yield `file:line` and docstring of every module, class and function."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", text


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_folder_can_be_taken_in_at_a_glance(folder: Path) -> None:
    modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert 3 <= len(modules) <= 12, modules


def test_no_class_name_means_two_things() -> None:
    where = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


def test_docstrings_begin_with_a_verb_or_with_what_they_describe() -> None:
    riddles = [f"{where} {text.splitlines()[0]}" for where, text in documented() if first_word(text) in OPENINGS]
    assert riddles == [], "\n".join(riddles)


def test_docstrings_and_messages_use_the_words_of_the_field() -> None:
    found = []
    for path in [*MODULES, *(ROOT / "hidfd").rglob("*.html"), *(ROOT / "tune").rglob("*.html")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found += [
                f"{path.relative_to(ROOT)}:{number} {word!r}"
                for word in WORDS_OF_OURS
                if re.search(rf"\b{word}\b", line) and word not in RECORDED.get(str(path.relative_to(ROOT)), ())
            ]
    assert found == [], "\n".join(found)


def test_no_committed_file_is_one_that_git_ignores() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found == ""


def first_word(text: str) -> str:
    return text.split(maxsplit=1)[0].strip("`,.:;").lower()


def test_text_is_read_and_written_in_a_named_encoding_whatever_the_locale() -> None:
    unnamed = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and takes_the_encoding_of_the_locale(node)
    ]
    assert unnamed == []


def takes_the_encoding_of_the_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text without naming its encoding."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    name = getattr(call.func, "attr", getattr(call.func, "id", None))
    if name in ("run", "Popen", "check_output", "check_call", "call", "getoutput"):
        return bool({"text", "universal_newlines"} & given.keys())
    if name in ("read_text", "write_text"):
        return True
    opens_a_file = isinstance(call.func, ast.Name) or "path" in ast.unparse(call.func) or any(map(is_mode, call.args))
    if name not in ("open", "fdopen", "NamedTemporaryFile", "TextIOWrapper") or not opens_a_file:
        return False
    modes = [given["mode"]] if "mode" in given else [argument for argument in call.args if is_mode(argument)]
    return not any("b" in ast.literal_eval(mode) for mode in modes)


def is_mode(argument: ast.expr) -> bool:
    """Whether an argument is the mode of an opened file."""
    return isinstance(argument, ast.Constant) and bool(re.fullmatch(r"[rwxab+t]{1,3}", str(argument.value)))


@pytest.mark.parametrize(
    ("line", "depends"),
    [
        ("path.open('a+')", True),
        ("path.open()", True),
        ("open(path, 'w')", True),
        ("subprocess.run(words, text=True)", True),
        ("path.write_text(text)", True),
        ("path.open('xb')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("Store.open(uri)", False),
    ],
)
def test_check_of_encodings_knows_text_from_bytes(line: str, depends: bool) -> None:
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    assert takes_the_encoding_of_the_locale(call) is depends


OF_THIS_MACHINE = {
    "environ",
    "getenv",
    "cwd",
    "getcwd",
    "home",
    "expanduser",
    "getuser",
    "gethostname",
    "stdout",
    "argv",
}
"""Attributes whose values belong to whoever runs the program, and may be secret."""


def shown_by_help() -> Iterator[tuple[str, ast.expr]]:
    """Yield `file:line` and expression of every value that `help()` prints: default arguments, and data of modules."""
    for path in MODULES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            values: list[ast.expr | None] = []
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                values = [*node.args.defaults, *node.args.kw_defaults]
            elif isinstance(node, ast.ClassDef | ast.Module):
                values = [inner.value for inner in node.body if isinstance(inner, ast.Assign | ast.AnnAssign)]
            yield from ((f"{path.relative_to(ROOT)}:{value.lineno}", value) for value in values if value is not None)


def test_help_prints_nothing_of_the_environment_or_the_machine() -> None:
    found = [
        f"{where}: {ast.unparse(value)}"
        for where, value in shown_by_help()
        if not isinstance(value, ast.Lambda)
        for node in ast.walk(value)
        if isinstance(node, ast.Attribute) and node.attr in OF_THIS_MACHINE
    ]
    assert not found, "\n".join(found)
