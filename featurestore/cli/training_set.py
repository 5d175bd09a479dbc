"""``training-set``: a spine's rows with each feature's value as of the row's own time.

A fact at exactly that time is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.output import say, write_json
from featurestore.cli.usage import (
    KNOWN_AT_HELP,
    STRICT_HELP,
    AsJson,
    UsageError,
    check_times,
    feature_names,
)

if TYPE_CHECKING:
    from featurestore import FeatureStore
    from featurestore.batch.training_set import TrainingSet


def training_set(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The Parquet file to write.")],
    spine: Annotated[
        Path | None,
        typer.Argument(metavar="SPINE", help="Entity keys, times and labels: .parquet or .csv."),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features", "-f", metavar="NAME", help="A service, a view or view:feature; repeat it."
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", metavar="COLUMN", help="The spine's column of times.  [default: ts]"),
    ] = None,
    known_at: Annotated[
        str | None, typer.Option("--known-at", metavar="TIME|as_of", help=KNOWN_AT_HELP)
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option("--timezone", metavar="ZONE", help="The zone of spine times without an offset."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help=STRICT_HELP)] = False,
    manifest: Annotated[
        Path | None,
        typer.Option("--from", metavar="MANIFEST", help="Make the training set of this manifest again."),
    ] = None,
    again: Annotated[
        Path | None,
        typer.Option("--spine", metavar="FILE", help="With --from: the spine, where it was no file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a training set: every row of the spine, in order, with its features as of its own time.

    Beside the file stands a manifest: definitions, log files with their hashes, what was left out and why.
    The same inputs give the same bytes: --from reads exactly what a manifest names, whatever the logs have
    got since, and makes the identical file again, or says all that is missing or changed.

    \b
    Example:
      featurestore training-set spine.parquet -f fraud_model -o train.parquet
      featurestore training-set spine.csv -f card_activity:count_5m,card_activity:amount_sum_7d \\
          --known-at 2026-01-31T00:00:00Z -o train.parquet
      featurestore training-set --from train.manifest.json -o again.parquet
    """
    if manifest is not None:
        asked = {"SPINE": spine, "-f": features, "--time": time, "--known-at": known_at,
                 "--timezone": timezone, "--strict": strict}  # fmt: skip
        _check_alone(asked)
        _write(lambda store: store.reproduce(manifest, spine=again), out, as_json=as_json)
        return
    if again is not None:
        raise UsageError("--spine goes with --from", hint="name the spine by itself: training-set SPINE ...")
    if spine is None:
        raise UsageError("no spine is named", hint="training-set SPINE -f NAME -o FILE, or --from MANIFEST")
    names = feature_names(features or [])
    check_times(known_at=known_at)
    _write(
        lambda store: store.training_set(
            spine,
            features=names,
            time="ts" if time is None else time,
            known_at=known_at,
            timezone=timezone,
            strict=strict,
        ),
        out,
        as_json=as_json,
    )


def _check_alone(asked: Mapping[str, object]) -> None:
    both = [name for name, value in asked.items() if value]
    if both:
        raise UsageError(
            f"--from goes without {', '.join(both)}", hint="the manifest names the spine, features and times"
        )


def _write(make: Callable[[FeatureStore], TrainingSet], out: Path, *, as_json: bool) -> None:
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        made = make(store)
    beside = made.write_parquet(out)
    if as_json:
        write_json({"path": str(out), "manifest_path": str(beside), "manifest": made.manifest})
        for warning in made.warnings:
            say(f"warning: {warning}")
    else:
        typer.echo(made.text())
    say(f"wrote {out} and {beside}")
