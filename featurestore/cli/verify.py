"""``verify``: what the server has answered, computed once more from the logs.

Answers are chosen by when they were given: at or after --since, before --until.
"""

from __future__ import annotations

from typing import Annotated

import typer

from featurestore.cli.output import Progress, write_report
from featurestore.cli.usage import AsJson, check_times


def verify(
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only answers given at or after it.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Only answers given before it.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", min=1, metavar="N", help="About N answers, of requests chosen by their ids."
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option("--limit", min=0, metavar="N", help="Answers and facts that are named, of each kind."),
    ] = 100,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on facts that are missing from the log, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compute the answers of the request log once more, over the facts that the store had then.

    Reads the sources' logs, not the store's facts, and compares bits. Fails (exit code 1) where an answer
    comes out otherwise, and where the store has lost facts that its logs have; it names them. Facts that had
    not entered yet are counted as freshness; facts that entered and are missing from the log are named.

    \b
    Example:
      featurestore verify
      featurestore verify --since 2026-01-15T00:00:00Z --sample 10000 --json
    """
    check_times(since=since, until=until)

    from featurestore import FeatureStore

    with FeatureStore(".") as store, Progress() as progress:
        found = store.verify(since=since, until=until, sample=sample, limit=limit, progress=progress)
    write_report(found, as_json=as_json)
    if not found.ok or (strict and found.missing):
        raise typer.Exit(1)
