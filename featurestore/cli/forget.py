"""``forget``: an entity leaves the store for good.

No instant decides what is forgotten: all of the entity's facts are, whenever they happened or will arrive.
"""

from __future__ import annotations

from typing import Annotated

import typer

from featurestore.cli.output import Progress, say, write_report
from featurestore.cli.usage import AsJson, UsageError, entities


def forget(
    entity: Annotated[
        list[str],
        typer.Option(
            "--entity", "-e", metavar="KEY=VALUE", help="The entity; once for each column of its key."
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase an entity for good: its timelines, its facts in other entities' timelines, what was pushed.

    There is no way back. The store keeps a digest of the key, not the key, and leaves its facts out from
    then on: a backfill, a push, a rebuilt version or a training set never brings them back, even where the
    log's own files still hold them. Those files are yours to clean. Later manifests say how many keys were
    forgotten, and when.

    Dead letters of streams go where they say whose they are; the report names those that may hold the key
    and can't be read.

    Killed or interrupted, run it again: it goes on. A key that nobody knows can be forgotten ahead.

    \b
    Example:
      featurestore forget --entity card_id=c1
      featurestore forget -e origin=JFK -e carrier=AA --yes --json
    """
    columns = entities(entity)
    if any(len(values) > 1 for values in columns.values()):
        raise UsageError("--entity: more than one entity is named", hint="forget them one by one")
    key = {name: values[0] for name, values in columns.items()}

    from featurestore import FeatureStore
    from featurestore.store.forget import places

    with FeatureStore(".") as store:
        # What is wrong with the store or the key is told before anybody is asked.
        where = places(store.store, key)
        if not yes:
            shown = ", ".join(f"{name}={value}" for name, value in key.items())
            say(f"{shown} is looked for in {where}")
            if not typer.confirm(f"Erase it from {store.store.name}, for good?", err=True):
                say("nothing was forgotten")
                raise typer.Exit(1)
        with Progress() as progress:
            report = store.forget(key, progress=progress)
    write_report(report, as_json=as_json)
    if not report.purged:
        raise typer.Exit(1)
