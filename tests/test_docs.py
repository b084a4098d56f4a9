"""The documentation does what it says: its code runs, its commands run, its pages build.

The fenced blocks of a page are executed in their order, in one folder and one namespace:

- ``python``: executed. A ``text`` block right after it is what it printed.
- ``bash``: every ``alhpo`` command is run and must succeed.
- ``console``: the same, with ``$`` before commands and what they print after them. A command whose
  output starts with ``alhpo:`` or ``Error:`` must fail.
- ``yaml`` whose first line is ``# file: NAME``: written to that file.

Printed lines are compared with all numbers, hashes and runs of spaces made equal; ``...`` stands
for any lines, or for the rest of its line.

The smaller networks are replaced by a toy and figures are not drawn: other tests are about them.

An HTML comment in the line before a block changes this: ``needs: hpo4dl`` runs the block by itself,
where HPO4DL is installed; ``parse only`` checks the flags of its commands and runs nothing;
``file: NAME`` says that the block is that file of the package in ``tests/plugin_package``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import re
import shlex
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import timm
from quick_figures import undrawn  # noqa: F401 - a fixture
from toy_models import alhpo_toy

from alhpo.cli import main, run_main
from alhpo.runs.settings import RunConfig
from alhpo.tuning.optimizers.containment import Containment

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
SLOW = {"index.md", "extending.md", "finetuning.md", "frozen.md", "hpo-modes.md"}
#: Networks that pages choose as an example, and that are not what the pages are about.
SMALL = {"mobilenetv3_small_050", "resnet10t", "resnet18"}


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    note: str
    line: int

    @property
    def commands(self) -> list[tuple[list[str], list[str]]]:
        """Arguments of each ``alhpo`` command and the lines shown after it."""
        text = self.text.replace("\\\n", " ")
        prompt = "$ " if self.language == "console" else ""
        found: list[tuple[list[str], list[str]]] = []
        for line in text.splitlines():
            if line.startswith(f"{prompt}alhpo "):
                found.append((shlex.split(line.removeprefix(prompt), comments=True)[1:], []))
            elif found:
                found[-1][1].append(line)
        return found


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(m["language"], m["text"], m["note"] or "", text[: m.start("text")].count("\n") + 1)
        for m in BLOCK.finditer(text)
    ]


def normalised(text: str) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"\b[0-9a-f]{8,}\b", "HASH", text)
    text = re.sub(r"-?\b\d+(\.\d+)?(e[+-]?\d+)?\b", "#", text)
    text = re.sub(r"[─━]+", "─", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def matches(shown: str, printed: str) -> bool:
    if shown.endswith("..."):
        return printed.startswith(shown.removesuffix("...").rstrip())
    return shown == printed


def check_printed(shown: str, printed: str, where: str) -> None:
    """Every line shown was printed, in this order; without ``...`` nothing came between."""
    expected, actual = normalised(shown), normalised(printed)
    at, gap = 0, False
    for line in expected:
        if line == "...":
            gap = True
            continue
        found = next((i for i in range(at, len(actual)) if matches(line, actual[i])), None)
        assert found is not None, f"{where}: shows {line!r}, but printed\n{printed}"
        assert gap or found == at, f"{where}: between the lines shown came {actual[at:found]}"
        at, gap = found + 1, False
    assert gap or at == len(actual), f"{where}: does not show {actual[at:]}"


def parse(arguments: list[str]) -> None:
    """Check the flags of a command, and the settings among them, without running it."""
    command = main.commands[arguments[0]]
    with command.make_context(arguments[0], arguments[1:], resilient_parsing=False) as context:
        given = {k: v for k, v in context.params.items() if v is not None}
    if arguments[0] == "run":
        one = {k: re.split("[,;]", v)[0] if isinstance(v, str) else v for k, v in given.items()}
        RunConfig.create({k: v for k, v in one.items() if k in RunConfig.model_fields and v != ()})


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit status and output of a command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["alhpo", *arguments])
    output = io.StringIO()
    status = 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            run_main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    return status, output.getvalue()


def run_commands(block: Block, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, shown in block.commands:
        if block.note == "parse only":
            parse(arguments)
            continue
        status, output = run(arguments, monkeypatch)
        fails = any(line.startswith(("alhpo: ", "Error: ")) for line in shown)
        assert (status != 0) == fails, f"{where}: alhpo {arguments} ended with {status}:\n{output}"
        if any(line.strip() for line in shown):
            check_printed("\n".join(shown), output, where)


def run_python(block: Block, module: types.ModuleType, where: str) -> str:
    output = io.StringIO()
    code = compile("\n" * block.line + block.text, where.rpartition(":")[0], "exec")
    with contextlib.redirect_stdout(output), Containment("dyhpo").active():
        exec(code, module.__dict__)
    return output.getvalue()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module for the code of a page: timm registers models by their function's module."""
    made = types.ModuleType("alhpo_docs_page")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


SOURCES = sorted((ROOT / "alhpo").rglob("*.py"))
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]


def run_blocks(
    blocks: list[Block], page: Path, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: str | None = None
    for block in blocks:
        where = f"{page.name}:{block.line}"
        if block.language == "python":
            printed = run_python(block, module, where)
        elif block.language == "text" and printed is not None:
            check_printed(block.text, printed, where)
            printed = None
        elif block.language in ("bash", "console"):
            run_commands(block, where, monkeypatch)
        elif block.language == "yaml" and block.text.startswith("# file: "):
            name = block.text.splitlines()[0].removeprefix("# file: ")
            Path(name).write_text(block.text, encoding="utf-8")


def hpo4dl_blocks(blocks: list[Block]) -> list[list[Block]]:
    """The blocks that need HPO4DL, each with the output that is shown after it."""
    return [
        [block, *itertools.takewhile(lambda after: after.language == "text", blocks[n + 1 : n + 2])]
        for n, block in enumerate(blocks)
        if block.note == "needs: hpo4dl"
    ]


@pytest.fixture
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def _smaller_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page prints is compared without its numbers, so that a toy can do the training."""
    create = timm.create_model

    def create_smaller(name: str, **settings: Any) -> Any:
        return create(alhpo_toy.__name__ if name in SMALL else name, **settings)

    monkeypatch.setattr(timm, "create_model", create_smaller)


@pytest.mark.usefixtures("_in_a_folder_of_its_own", "_smaller_networks", "undrawn")
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=p.name, marks=[pytest.mark.slow] * (p.name in SLOW)) for p in PAGES],
)
def test_code_and_commands_of_the_page_run(
    page: Path, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = blocks_of(page)
    apart = [block for found in hpo4dl_blocks(blocks) for block in found]
    run_blocks([block for block in blocks if block not in apart], page, module, monkeypatch)


@pytest.mark.hpo4dl
@pytest.mark.usefixtures("_in_a_folder_of_its_own")
@pytest.mark.parametrize("page", [DOCS / "index.md", ROOT / "README.md"], ids=lambda p: p.name)
def test_code_with_hpo4dl_runs(
    page: Path, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = hpo4dl_blocks(blocks_of(page))
    run_blocks(found, page, module, monkeypatch)


def test_every_fence_of_the_pages_is_a_block_that_the_tests_see() -> None:
    for page in PAGES:
        fences = len(re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.M))
        assert fences == 2 * len(blocks_of(page)), page


def test_the_page_of_own_parts_shows_the_files_of_the_package() -> None:
    package = ROOT / "tests" / "plugin_package"
    notes = (block for page in PAGES for block in blocks_of(page) if block.note.startswith("file:"))
    shown = {block.note.removeprefix("file: "): block.text for block in notes}
    files = [package / "pyproject.toml", *package.glob("own_parts/[!_]*.py")]
    content = {p.relative_to(package).as_posix(): p.read_text(encoding="utf-8") for p in files}
    assert shown == content


def test_every_flag_that_the_pages_name_exists() -> None:
    known = {"--no-deps"}  # of pip
    known |= {"--internal-host"}  # of label-studio
    known |= {"--parsable", "--array", "--dependency", "--gres", "--time"}  # of sbatch
    for command in (main, *main.commands.values()):
        parameters = command.get_params(click.Context(command))
        known |= {flag for p in parameters for flag in (*p.opts, *p.secondary_opts)}
    for script in (ROOT / "benchmarks").glob("*.py"):
        declared = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', script.read_text(encoding="utf-8"))
        known |= set(declared)
    for page in PAGES[:-1]:
        text = page.read_text(encoding="utf-8").replace("#SBATCH --", "#SBATCH ")
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
        assert named <= known, page


def test_a_wrong_flag_in_a_page_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["run", "--no-such-flag", "1"])


def test_output_that_was_not_printed_is_found() -> None:
    check_printed("cycle 0  20 labels\n...\nend", "cycle 1  30 labels\nx\nend\n", "here")
    check_printed("legal: a, ...", "legal: a, b, c", "here")
    with pytest.raises(AssertionError, match="shows 'begin'"):
        check_printed("begin", "end\n", "here")
    with pytest.raises(AssertionError, match="between"):
        check_printed("a\nc", "a\nb\nc\n", "here")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout + build.stderr
    assert (tmp_path / "nouns" / "index.html").exists()
