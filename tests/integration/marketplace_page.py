"""The commands of docs/marketplace.md, and what they print when they are run.

`python tests/integration/marketplace_page.py` writes into the page what they print now.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from api_project import served

from examples.marketplace import generate
from featurestore.cli.application import run

EXAMPLE = Path(generate.__file__).parent
PAGE = EXAMPLE.parents[1] / "docs" / "marketplace.md"
PROGRESS = re.compile(r".*: [\d,]+ of [\d,]+")


@dataclass(frozen=True)
class Step:
    """A command of the page, and what it prints there."""

    line: int
    command: str
    printed: str


def steps() -> list[Step]:
    """The page's commands in order; one goes on while its quotes are open, or its line ends with a
    backslash."""
    found: list[Step] = []
    inside, open_ = False, False
    for number, line in enumerate(PAGE.read_text().splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            found.append(Step(number, line[2:], ""))
        elif inside and open_:
            found[-1] = Step(found[-1].line, f"{found[-1].command}\n{line}", "")
        elif inside:
            found[-1] = Step(found[-1].line, found[-1].command, found[-1].printed + line + "\n")
        command = found[-1].command if found else ""
        open_ = command.count("'") % 2 == 1 or (command.endswith("\\") and not found[-1].printed)
    return found


def printed(command: str, root: Path) -> str:
    """What a command prints, run in ``root``: the command line, a script, or a request by curl."""
    words = shlex.split(command)
    match words[0]:
        case "cd":
            return ""
        case "cmp":
            assert (root / words[1]).read_bytes() == (root / words[2]).read_bytes()
            return ""
        case "curl":
            with served(root) as serving:
                path = words[2].removeprefix("localhost:8000")
                return serving.client.post(path, json=json.loads(words[4])).text
    said = io.StringIO()
    with contextlib.chdir(root), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        if words[0] == "featurestore":
            assert run(words[1:]) == 0, said.getvalue()
        else:
            assert words[0] == "python"
            before, sys.argv = sys.argv, words[1:]
            try:
                runpy.run_path(words[1], run_name="__main__")
            finally:
                sys.argv = before
    return "".join(f"{line}\n" for line in said.getvalue().splitlines() if not PROGRESS.fullmatch(line))


def example(root: Path) -> Path:
    """The example's files, nothing generated yet."""
    for path in EXAMPLE.glob("*.py"):
        shutil.copy(path, root)
    return root


def laid_out(answer: str) -> str:
    """A response's JSON in lines that a page can hold."""
    parts = json.loads(answer)
    metadata = ",\n  ".join(f'"{name}": {json.dumps(value)}' for name, value in parts["metadata"].items())
    results = ",\n  ".join(
        "{" + ",\n   ".join(f'"{name}": {json.dumps(value)}' for name, value in column.items()) + "}"
        for column in parts["results"]
    )
    return f'{{"metadata": {{\n  {metadata}}},\n "results": [\n  {results}]}}\n'


def write() -> None:
    lines = PAGE.read_text().splitlines(keepends=True)
    with tempfile.TemporaryDirectory() as directory:
        root = example(Path(directory))
        made = [(step, printed(step.command, root)) for step in steps()]
    for step, text in reversed(made):
        first = step.line + step.command.count("\n")
        shown = laid_out(text) if step.command.startswith("curl") else text
        lines[first : first + step.printed.count("\n")] = shown.splitlines(keepends=True)
    PAGE.write_text("".join(lines))


if __name__ == "__main__":
    write()
