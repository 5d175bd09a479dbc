"""What is typed at a prompt, read into what the library takes: instants, entities, feature names.

An instant has an offset or Z. A time without one is refused: it would be another moment on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from featurestore import instants
from featurestore.errors import RequestError

AsJson = Annotated[bool, typer.Option("--json", help="Write the result to stdout as JSON.")]

KNOWN_AT_HELP = "Use only what was available before this instant; as_of: before each question's own time."

STRICT_HELP = "Fail on rejected rows and on different changes of one row at one position, and name them."


class UsageError(Exception):
    """A command line that can't be run as typed (exit code 2)."""

    def __init__(self, fact: str, *, hint: str | None = None) -> None:
        super().__init__(fact)
        self.fact = fact
        self.hint = hint


def check_times(
    *,
    as_of: str | None = None,
    known_at: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> None:
    """Refuse what names no instant before anything heavy is loaded; ``as_of`` is a horizon too."""
    try:
        for option, text in (("--as-of", as_of), ("--since", since), ("--until", until)):
            if text is not None:
                instants.instant(text, what=option)
    except RequestError as error:
        raise UsageError(error.fact, hint=error.hint) from None
    try:
        if known_at not in (None, "as_of"):
            instants.instant(known_at, what="--known-at")
    except RequestError as error:
        raise UsageError(error.fact, hint=f"{error.hint}, or as_of") from None


def entities(pairs: Sequence[str]) -> dict[str, list[str]]:
    """``["card_id=c1", "card_id=c2"]`` as columns: ``{"card_id": ["c1", "c2"]}``."""
    columns: dict[str, list[str]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f'--entity: "{pair}" is not KEY=VALUE', hint="write it like --entity card_id=c1")
        columns.setdefault(key, []).append(value)
    if len({len(values) for values in columns.values()}) > 1:
        counts = ", ".join(f"{key} has {len(values)}" for key, values in columns.items())
        raise UsageError(
            f"--entity: the keys have different numbers of values ({counts})",
            hint="give every key once per entity: -e origin=JFK -e carrier=AA -e origin=LGA -e carrier=DL",
        )
    return columns


def feature_names(names: Sequence[str]) -> str | list[str]:
    """One service or view as its name, features as a list; commas separate as repetition does."""
    flat = [name.strip() for text in names for name in text.split(",") if name.strip()]
    if not flat:
        raise UsageError(
            "no feature is named", hint="name features like card_activity:count_5m, or a service"
        )
    return flat[0] if len(flat) == 1 and ":" not in flat[0] else flat
