"""``plan``, ``apply`` and ``explain``: what is declared, what would change, how it is computed."""

from __future__ import annotations

from typing import Annotated

import typer

from featurestore.cli.output import write_json, write_report
from featurestore.cli.usage import AsJson


def plan(as_json: AsJson = False) -> None:
    """Show what `apply` would change: added, changed with its reason, removed.

    Writes nothing. A cosmetic edit (order, description, owner, tags) changes nothing; another meaning
    makes a new version of the view.

    \b
    Example:
      featurestore plan
      featurestore -C projects/fraud plan --json
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        write_report(store.plan(), as_json=as_json)


def apply(as_json: AsJson = False) -> None:
    """Record the declarations in the store, making the store when there is none.

    \b
    Example:
      featurestore apply
      featurestore backfill      fills what apply has added
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        write_report(store.apply(), as_json=as_json)


def explain(
    name: Annotated[
        str | None, typer.Argument(metavar="[VIEW | VIEW:FEATURE]", help="Everything declared, if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the compiled plan: what the engine scans, the shuffle, the kernel's steps.

    For the facts behind one value, see `featurestore get --explain`.

    \b
    Example:
      featurestore explain card_activity:amount_sum_7d
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        text = store.explain(name)
    if as_json:
        write_json({"name": name, "plan": text})
    else:
        typer.echo(text)
