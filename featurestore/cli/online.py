"""``get`` and ``serve``: features of entities, now or as of an instant.

A fact at exactly that instant is not seen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.output import say, write_columns, write_json
from featurestore.cli.usage import KNOWN_AT_HELP, AsJson, UsageError, check_times, entities, feature_names

if TYPE_CHECKING:
    from featurestore import FeatureStore


def get(
    features: Annotated[list[str], typer.Argument(metavar="NAME", help="A service, a view or view:feature.")],
    entity: Annotated[
        list[str], typer.Option("--entity", "-e", metavar="KEY=VALUE", help="An entity; repeat it for more.")
    ],
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="TIME", help="The question's instant; default now.")
    ] = None,
    known_at: Annotated[
        str | None, typer.Option("--known-at", metavar="TIME|as_of", help=KNOWN_AT_HELP)
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the facts behind each value.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch features of entities from the store, from one consistent state of it.

    \b
    Example:
      featurestore get card_activity:count_5m --entity card_id=c1 --entity card_id=c2
      featurestore get fraud_model -e card_id=c1 --as-of 2026-01-14T00:00:00Z --json
      featurestore get card_activity:amount_sum_7d -e card_id=c1 --explain
    """
    names, keys = feature_names(features), entities(entity)
    check_times(as_of=as_of, known_at=known_at)

    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        if explain:
            _explain(store, names, keys, as_of=as_of, known_at=known_at, as_json=as_json)
            return
        answer = store.online_features(features=names, entities=keys, as_of=as_of, known_at=known_at)
    response = answer.to_response(full_feature_names=True)
    if as_json:
        write_json(response)
        return
    metadata = response["metadata"]
    write_columns(metadata["feature_names"], [column["values"] for column in response["results"]])
    known = "" if known_at is None else f", known at {metadata['known_at']}"
    say(f"as of {metadata['as_of']}{known}, store commit {metadata['store_commit']}")


def _explain(
    store: FeatureStore,
    names: str | list[str],
    keys: dict[str, list[str]],
    *,
    as_of: str | None,
    known_at: str | None,
    as_json: bool,
) -> None:
    if isinstance(names, str):
        raise UsageError(
            f'--explain: "{names}" is more than one feature',
            hint="name its features one by one, as VIEW:FEATURE",
        )
    rows = [dict(zip(keys, row, strict=True)) for row in zip(*keys.values(), strict=True)]
    values = [
        store.explain_value(name, row, as_of=as_of, known_at=known_at) for name in names for row in rows
    ]
    if as_json:
        write_json([value.to_dict() for value in values])
    else:
        typer.echo("\n\n".join(value.text() for value in values))


def serve(
    host: Annotated[
        str | None,
        typer.Option("--host", help="The address to listen on.  [default: 127.0.0.1, or the setting]"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="The port.  [default: 8000, or the setting]"),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that answer.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Serve features over HTTP: POST /get-online-features, POST /ingest/SOURCE, documentation at /docs.

    Listens on this machine only unless told otherwise; /ready answers once the kernel is warm.

    \b
    Example:
      featurestore serve --port 8000
      curl -s localhost:8000/get-online-features --json \\
          '{"features": ["card_activity:count_5m"], "entities": {"card_id": ["c1"]}}'
    """
    from featurestore import FeatureStore
    from featurestore.settings import load

    FeatureStore(".")  # what is wrong with the project is told here, not in a worker's traceback
    project = Path.cwd()
    serving = load(project).serving
    host, port = host or serving.host, port or serving.port
    os.environ["FEATURESTORE_PROJECT"] = str(project)
    if as_json:
        write_json({"host": host, "port": port, "workers": workers, "project": str(project)})

    import uvicorn

    try:
        # The app by its name: the library never imports its edges.
        uvicorn.run(
            "api.app:create_app", factory=True, host=host, port=port, workers=workers, access_log=False
        )
    except SystemExit as stopped:  # uvicorn's own codes: 1 for a port in use, 3 for an app that did not start
        raise typer.Exit(1 if stopped.code else 0) from None
