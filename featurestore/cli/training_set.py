"""``training-set``: a spine's rows with each feature's value as of the row's own time.

A fact at exactly that time is not seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.output import say, write_json
from featurestore.cli.usage import KNOWN_AT_HELP, STRICT_HELP, AsJson, check_times, feature_names


def training_set(
    spine: Annotated[
        Path, typer.Argument(metavar="SPINE", help="Entity keys, times and labels: .parquet or .csv.")
    ],
    features: Annotated[
        list[str],
        typer.Option(
            "--features", "-f", metavar="NAME", help="A service, a view or view:feature; repeat it."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The Parquet file to write.")],
    time: Annotated[
        str, typer.Option("--time", metavar="COLUMN", help="The spine's column of times.")
    ] = "ts",
    known_at: Annotated[
        str | None, typer.Option("--known-at", metavar="TIME|as_of", help=KNOWN_AT_HELP)
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option("--timezone", metavar="ZONE", help="The zone of spine times without an offset."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help=STRICT_HELP)] = False,
    as_json: AsJson = False,
) -> None:
    """Write a training set: every row of the spine, in order, with its features as of its own time.

    Beside the file stands a manifest: definitions, log files with their hashes, what was left out and why.
    The same inputs give the same bytes.

    \b
    Example:
      featurestore training-set spine.parquet -f fraud_model -o train.parquet
      featurestore training-set spine.csv -f card_activity:count_5m,card_activity:amount_sum_7d \\
          --known-at 2026-01-31T00:00:00Z -o train.parquet
    """
    names = feature_names(features)
    check_times(known_at=known_at)

    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        made = store.training_set(
            spine, features=names, time=time, known_at=known_at, timezone=timezone, strict=strict
        )
    manifest = made.write_parquet(out)
    if as_json:
        write_json({"path": str(out), "manifest_path": str(manifest), "manifest": made.manifest})
    else:
        typer.echo(made.text())
    say(f"wrote {out} and {manifest}")
