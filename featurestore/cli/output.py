"""What a command writes: results to stdout (text or JSON), progress and messages to stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

# One line in two seconds keeps a log readable when stderr is no terminal.
LINE_PERIOD_S = 2.0


class Report(Protocol):
    """What the library returns from work: the same facts as data and as text."""

    def to_dict(self) -> Mapping[str, object]: ...

    def text(self) -> str: ...


def write_report(report: Report, *, as_json: bool) -> None:
    """A report on stdout, as JSON or as its own text."""
    if as_json:
        write_json(report.to_dict())
    else:
        typer.echo(report.text())


def write_json(data: object) -> None:
    """``data`` on stdout as one JSON document whose numbers carry their bits."""
    typer.echo(json.dumps(_portable(data), ensure_ascii=False, allow_nan=False, indent=2))


def write_columns(names: Sequence[str], columns: Sequence[Sequence[object]]) -> None:
    """Columns side by side, never cut to the width of a terminal, so that other programs can read them."""
    cells = [[name, *map(_cell, column)] for name, column in zip(names, columns, strict=True)]
    widths = [max(map(len, column)) for column in cells]
    for row in zip(*cells, strict=True):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def say(message: str) -> None:
    """A message for the person at the prompt, on stderr."""
    typer.echo(message, err=True)


def report_error(fact: str, hint: str | None) -> None:
    """``error: fact`` and ``hint: way out``, on stderr."""
    typer.echo(typer.style("error: ", fg="red") + fact, err=True)
    if hint is not None:
        typer.echo(f"hint: {hint}", err=True)


class Progress:
    """Progress of long work on stderr: bars on a terminal, now and then a line elsewhere.

    An instance is the callable ``(done, total, what)`` that the library reports to.
    """

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._next_line_s = time.monotonic() + LINE_PERIOD_S

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bars

            self._bars = Bars(console=Console(stderr=True), transient=True)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what)
            self._bars.update(self._tasks[what], completed=done, total=total)
        elif (moment_s := time.monotonic()) >= self._next_line_s:
            self._next_line_s = moment_s + LINE_PERIOD_S
            say(f"{what}: {done:,} of {total:,}")


def _portable(value: object) -> object:
    """``value`` in JSON's own types: shortest round-trip floats, names for what JSON has no number for."""
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
        case date() | Decimal():
            return str(value)
        case Mapping():
            return {str(key): _portable(item) for key, item in value.items()}
        case list() | tuple():
            return [_portable(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _portable(dataclasses.asdict(value))
    return str(value)


def _cell(value: object) -> str:
    """A value as a person reads it; null is a dash, so that it is no empty string."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(_portable(value), ensure_ascii=False)
