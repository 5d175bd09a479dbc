"""``versions``, ``compact`` and ``migrate``: what the store keeps, how it lies there, and its schema."""

from __future__ import annotations

from typing import Annotated

import typer

from featurestore.cli.output import Progress, say, write_columns, write_json, write_report
from featurestore.cli.usage import AsJson

View = Annotated[str, typer.Argument(metavar="VIEW")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="As `featurestore versions list` shows it.")]

versions = typer.Typer(
    help="List, switch and drop versions of views.", rich_markup_mode=None, no_args_is_help=False
)


@versions.command("list")
def list_versions(as_json: AsJson = False) -> None:
    """Show every version of every view in the store, and which one is served.

    \b
    Example:
      featurestore versions list
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        records = store.versions()
    if as_json:
        write_json(records)
        return
    names = list(records[0]) if records else ["view", "version"]
    write_columns(names, [[record[name] for record in records] for name in names])


@versions.command()
def switch(view: View, version: Version, as_json: AsJson = False) -> None:
    """Serve another filled version of a view, from the next request on.

    \b
    Example:
      featurestore versions switch card_activity 2
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        store.switch_version(view, version)
    _done("switched", view=view, version=version, as_json=as_json)


@versions.command()
def drop(view: View, version: Version, as_json: AsJson = False) -> None:
    """Remove a version of a view that is not served, for good.

    \b
    Example:
      featurestore versions drop card_activity 2
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        store.drop_version(view, version)
    _done("dropped", view=view, version=version, as_json=as_json)


def compact(
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Write the store anew, as small as it can be; requests and writers wait for it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fold the small rows that pushes and streams have left, and give space back. No answer changes.

    Each commit of a stream and each push leaves a small row for each entity that it concerns. Reading an
    entity gets slower by them, and the store larger. Folding makes of an entity's many rows a few, in commits
    of some 50 ms, while requests are answered and streams, pushes and backfills go on: run it at any time.
    `featurestore stream` does it all the time ([streaming] compact). Where views declare a retention, events
    that no question inside it can see are dropped first.

    SQLite's file gets shorter by it. In PostgreSQL the room is used again by what comes; --full gives it back
    to the system, and each part of the store waits while it is written anew. A SQLite file that an older
    release made gets shorter only by --full, the first time.

    Killed or interrupted, it has done what it has done; run it again at any time.

    
    Example:
      featurestore compact
      featurestore compact --full --json
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store, Progress() as progress:
        report = store.compact(full=full, progress=progress)
    write_report(report, as_json=as_json)


def migrate(as_json: AsJson = False) -> None:
    """Bring the store's schema to this release; a store of a newer release is refused.

    `apply` does it too. Back up a store that matters before a new release touches it.

    \b
    Example:
      featurestore migrate
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        write_report(store.migrate(), as_json=as_json)


def _done(what: str, *, view: str, version: str, as_json: bool) -> None:
    if as_json:
        write_json({"done": what, "view": view, "version": version})
    else:
        say(f"{what} {view}@{version.removeprefix(f'{view}@')}")
