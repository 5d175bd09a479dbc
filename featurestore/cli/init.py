"""``init``: a small project that runs at once.

Its data are the same on every machine, and every event time is before a fixed instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli import sample
from featurestore.cli.output import say, write_json
from featurestore.cli.usage import AsJson
from featurestore.errors import SettingsError


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where; made if it is not there.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a small project that runs: declarations, settings, generated card transactions, a spine.

    Nothing that exists is overwritten.

    \b
    Example:
      featurestore init fraud
      cd fraud
      featurestore apply
    """
    files = sample.files()
    if existing := [name for name in files if (directory / name).exists()]:
        raise SettingsError(
            f'project "{directory}": {", ".join(existing)} is already there',
            hint="name another directory: featurestore init DIR",
        )
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    steps = sample.next_commands(None if directory == Path() else str(directory))
    if as_json:
        write_json({"directory": str(directory.resolve()), "files": list(files), "next": steps})
        return
    typer.echo("\n".join(f"wrote {directory / name}" for name in files))
    say("\nnext:\n" + "\n".join(f"  {step}" for step in steps))
