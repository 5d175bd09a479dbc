"""``compare-knowledge``: what differs between two horizons of knowledge, and because of which facts.

What was available at exactly a horizon is not known yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.output import write_report
from featurestore.cli.usage import AsJson, UsageError, check_times, feature_names


def compare_knowledge(
    spine: Annotated[Path, typer.Argument(metavar="SPINE", help="Entity keys and times: .parquet or .csv.")],
    features: Annotated[
        list[str],
        typer.Option(
            "--features", "-f", metavar="NAME", help="A service, a view or view:feature; repeat it."
        ),
    ],
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="TIME|as_of", help="One horizon; left out: everything known now."),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="TIME|as_of", help="The other; left out: everything known now."),
    ] = None,
    time: Annotated[
        str, typer.Option("--time", metavar="COLUMN", help="The spine's column of times.")
    ] = "ts",
    timezone: Annotated[
        str | None,
        typer.Option("--timezone", metavar="ZONE", help="The zone of spine times without an offset."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, metavar="N", help="Values that are listed with their reasons.")
    ] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Show which values of a training set differ between two horizons of knowledge, and why.

    All that differs is counted; what is listed names the facts responsible: late, corrected, retracted,
    changed or deleted since.

    \b
    Example:
      featurestore compare-knowledge spine.csv -f fraud_model --before as_of
      featurestore compare-knowledge spine.csv -f fraud_model \\
          --before 2026-01-20T00:00:00Z --after 2026-01-31T00:00:00Z --json
    """
    names = feature_names(features)
    if before == after:
        raise UsageError(
            "both horizons are the same",
            hint="name one at least: --before as_of, or --before TIME --after TIME",
        )
    check_times(known_at=before)
    check_times(known_at=after)

    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        compared = store.compare_knowledge(
            spine, features=names, known_at=(before, after), time=time, timezone=timezone, limit=limit
        )
    write_report(compared, as_json=as_json)
