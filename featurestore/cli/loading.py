"""``backfill`` and ``ingest``: facts into the store, by the same writer.

What is reported as done is durable; the times of facts are their own, never those of loading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.output import Progress, write_report
from featurestore.cli.usage import STRICT_HELP, AsJson


def backfill(
    views: Annotated[
        list[str] | None, typer.Argument(metavar="[VIEW]...", help="All views, if left out.")
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Fill new versions from the log as it is now, beside the old ones."),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help=STRICT_HELP)] = False,
    as_json: AsJson = False,
) -> None:
    """Load the history of the logs into the store.

    Interrupt it, kill it, run it again: it goes on where it stood, and no fact counts twice. A second run
    adds what is new. A fact never leaves the store because its file did; --rebuild follows the log.

    \b
    Example:
      featurestore backfill
      featurestore backfill card_activity --json
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store, Progress() as progress:
        report = store.backfill(views or None, rebuild=rebuild, progress=progress, strict=strict)
    write_report(report, as_json=as_json)


def ingest(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The declared source the rows belong to.")],
    rows: Annotated[Path, typer.Argument(metavar="FILE", help="Rows as .jsonl, .csv or .parquet.")],
    atomic: Annotated[
        bool, typer.Option("--atomic", help="All rows or none: one bad row refuses the file.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help=STRICT_HELP)] = False,
    as_json: AsJson = False,
) -> None:
    """Push rows into a source: durable, served and part of its log when the command ends.

    Rows are known by their id, so pushing a file again adds nothing. A bad row is refused with its line
    and reason while good rows go on; the exit code is then 1. A table whose log holds Debezium envelopes
    takes envelopes.

    \b
    Example:
      featurestore ingest transactions new.jsonl
      featurestore ingest transactions new.csv --atomic
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        report = store.ingest(source, rows, atomic=atomic, strict=strict)
    write_report(report, as_json=as_json)
    if report.rejected:
        raise typer.Exit(1)
