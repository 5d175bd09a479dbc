"""``stream``, ``status``, ``dead-letters``: topics into the store, where they stand, what could not be read.

An offset is Kafka's number of a message; a position is the offset of the next message to read.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore import clock
from featurestore.cli.output import say, write_columns, write_json, write_report
from featurestore.cli.usage import AsJson, UsageError
from featurestore.dtypes import instant_text
from featurestore.errors import SettingsError

if TYPE_CHECKING:
    from rich.table import Table

    from featurestore import FeatureStore
    from featurestore.store.dead_letters import DeadLetter

dead_letters = typer.Typer(
    help="List, retry and discard messages that could not be read.",
    rich_markup_mode=None,
    no_args_is_help=False,
)

Source = Annotated[str | None, typer.Option("--source", metavar="SOURCE", help="Only of this source.")]
Letters = Annotated[
    list[str] | None,
    typer.Argument(metavar="[LETTER]...", help="As TOPIC/PARTITION/OFFSET; all, if left out."),
]


def stream(
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, max=256, help="Processes that consume and serve metrics."),
    ] = 1,
    archive: Annotated[
        bool,
        typer.Option("--archive", help="Keep what sources without a log deliver, as Parquet, for backfills."),
    ] = False,
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop at the ends that the topics have now.")
    ] = False,
    accept_gap: Annotated[
        bool,
        typer.Option(
            "--accept-gap", help="Go on at a topic's first message where the stored position is gone from it."
        ),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a source with a topic, and for its topic to be made.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Consume the topics of all applied sources into the store, each message exactly once.

    Where it stands is kept in the store, in the transaction of the facts: stop it, kill it, start it again,
    on this host or another, and nothing is lost or counted twice. A backfill may run beside it. SIGTERM ends
    it after the commit that it is in. A worker that fails is started again, five times in a row at most.

    \b
    Brokers and the rest are settings, in featurestore.toml:
      [streaming]
      bootstrap_servers = "localhost:9092"

    \b
    Example:
      featurestore stream
      featurestore stream --until-end --json
      featurestore stream --workers 4 --archive
    """
    chosen = (
        ("--archive", archive), ("--until-end", until_end), ("--accept-gap", accept_gap), ("--wait", wait)
    )  # fmt: skip
    flags = [flag for flag, wanted in chosen if wanted]
    # The package by its name: the library never imports its edges.
    reports = _streaming("streaming.processes").run(Path.cwd(), workers, flags)
    if as_json:
        write_json(reports)
        return
    for number, report in enumerate(reports):
        for name, counts in sorted(report["partitions"].items()):
            told = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n and what != "delivered")
            typer.echo(f"worker {number}, {name}: {counts['delivered']:,} messages: {told or 'nothing'}")
        for view in report["switched"]:
            typer.echo(f"now served: {view}")


# What a person looks at first; the rest follows where there is any.
_COUNTS = ("accepted", "corrected", "duplicate", "keyless", "ignored", "late", "dead_lettered")


def status(
    watch: Annotated[
        float | None,
        typer.Option("--watch", min=0.1, metavar="SECONDS", help="Again and again, until Ctrl-C."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where streams stand: positions, lag and counters of each source and partition.

    Positions and counters are of one state of the store; how far a topic goes is asked of the brokers, or,
    where none answers, as a worker saw it at its last commit (marked ~).

    \b
    Example:
      featurestore status
      featurestore status --watch 2
      featurestore status --json
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        if watch is None:
            found = _standings(store)
            if as_json:
                write_json(found)
            else:
                write_columns(*_table(found))
            return
        from rich.live import Live

        with Live(_rich(_standings(store)), auto_refresh=False) as live:
            while True:
                live.update(_rich(_standings(store)), refresh=True)
                time.sleep(watch)


def _standings(store: FeatureStore) -> list[dict[str, Any]]:
    """Each standing with the topic's end as the brokers say it, where they do."""
    from featurestore.store.stream_status import stream_standings

    with store.store.snapshot() as snapshot:
        found = [one.to_dict() for one in stream_standings(snapshot)]
    asked = {(one["topic"], one["partition"]) for one in found}
    ends = _streaming("streaming.lag").ends(store.settings.streaming, asked) if asked else {}
    for one in found:
        end = ends.get((one["topic"], one["partition"]))
        one["end_is_of_now"] = end is not None
        one["committed_at"] = instant_text(one.pop("committed_at_us"))
        if end is not None:
            one |= {"end": end, "lag": max(0, end - one["position"])}
    return found


def _table(found: list[dict[str, Any]]) -> tuple[list[str], list[list[object]]]:
    others = sorted({kind for one in found for kind in one["counts"]} - {*_COUNTS, "delivered"})
    kinds = [*_COUNTS, *others]
    names = ["source", "partition", "position", "lag", *(kind.replace("_", "-") for kind in kinds), "worker",
             "last commit"]  # fmt: skip
    rows: list[list[object]] = []
    for one in found:
        place = f"{one['topic']}/{one['partition']}"
        if one["catching_up"]:
            place += f" (catching up: version {min(one['versions'])})"
        lag = f"{one['lag']:,}" if one["end_is_of_now"] else f"~{one['lag']:,}"
        counts = [one["counts"].get(kind, 0) for kind in kinds]
        rows.append(
            [
                one["source"],
                place,
                one["position"],
                lag,
                *counts,
                one["worker"],
                one["committed_at"][:19] + "Z",
            ]
        )
    return names, [[row[i] for row in rows] for i in range(len(names))]


def _rich(found: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    names, columns = _table(found)
    table = Table(*names)
    for row in zip(*columns, strict=True):
        table.add_row(*map(str, row))
    return table


@dead_letters.command("list")
def list_letters(source: Source = None, as_json: AsJson = False) -> None:
    """Show the messages that could not be read, and why.

    With --json each has its bytes, as text where they are UTF-8, else in base64.

    \b
    Example:
      featurestore dead-letters list
      featurestore dead-letters list --source transactions --json
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        letters = _letters(store, source, None)
    if as_json:
        write_json([_told(one) for one in letters])
        return
    names = ("letter", "source", "time", "bytes", "reason")
    rows = [
        (_name(one), one.source, None if one.timestamp_us is None else instant_text(one.timestamp_us),
         len(one.value or b""), one.reason[:200])
        for one in letters
    ]  # fmt: skip
    write_columns(names, [[row[i] for row in rows] for i in range(len(names))])


@dead_letters.command("retry")
def retry_letters(letters: Letters = None, source: Source = None, as_json: AsJson = False) -> None:
    """Read dead letters again, under what is applied now.

    What can be read counts from now on as what it is; the rest stays. The exit code is 1 where any stays.

    \b
    Example:
      featurestore dead-letters retry
      featurestore dead-letters retry transactions/0/1234
    """
    from featurestore import FeatureStore

    with FeatureStore(".") as store:
        chosen = _letters(store, source, letters)
        dead_letter = _streaming("streaming.dead_letter")
        report = dead_letter.retry(store.store, store.root, store.settings.streaming, chosen, clock.now())
    write_report(report, as_json=as_json)
    if report.still_dead:
        raise typer.Exit(1)


@dead_letters.command("discard")
def discard_letters(
    letters: Annotated[list[str], typer.Argument(metavar="LETTER...", help="As TOPIC/PARTITION/OFFSET.")],
    source: Source = None,
    as_json: AsJson = False,
) -> None:
    """Remove dead letters from the store for good; the counters keep them.

    \b
    Example:
      featurestore dead-letters discard transactions/0/1234
    """
    from featurestore import FeatureStore
    from featurestore.store.dead_letters import remove_dead_letter

    with FeatureStore(".") as store:
        chosen = _letters(store, source, letters)
        with store.store.commit("dead letters", now_us=clock.now(), detail="discard") as commit:
            removed = sum(remove_dead_letter(commit, one.letter_key) for one in chosen)
    if as_json:
        write_json({"discarded": removed})
    else:
        say(f"discarded {removed:,}")


def _letters(store: FeatureStore, source: str | None, names: list[str] | None) -> list[DeadLetter]:
    """The dead letters that are named."""
    from featurestore.store.dead_letters import read_dead_letters

    with store.store.snapshot() as snapshot:
        found = read_dead_letters(snapshot, source)
    if not names:
        return found
    by_name: dict[str, list[DeadLetter]] = {}
    for one in found:
        by_name.setdefault(_name(one), []).append(one)
    for name in names:
        if name not in by_name:
            raise UsageError(
                f'there is no dead letter "{name}"', hint="`featurestore dead-letters list` shows them"
            )
    return [one for name in dict.fromkeys(names) for one in by_name[name]]


def _name(letter: DeadLetter) -> str:
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


def _told(letter: DeadLetter) -> dict[str, Any]:
    import base64

    def readable(data: bytes | None) -> dict[str, str] | None:
        if data is None:
            return None
        try:
            return {"text": data.decode("utf-8")}
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(data).decode("ascii")}

    stamp = letter.timestamp_us
    return {
        "letter": _name(letter),
        "source": letter.source,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "time": None if stamp is None else instant_text(stamp),
        "reason": letter.reason,
        "key": readable(letter.key),
        "value": readable(letter.value),
    }


def _streaming(module: str) -> Any:
    """A part of the streaming package, by its name."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"streams need {error.name}", hint='pip install "featurestore[streaming]"'
        ) from error
