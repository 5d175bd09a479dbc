"""``versions`` and ``migrate``: what the store keeps, and the schema it keeps it in."""

from __future__ import annotations

from typing import Annotated

import typer

from featurestore.cli.output import say, write_columns, write_json, write_report
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
