"""The application: its commands, where they run, and how an error becomes a message and an exit code.

Instants on the command line are ISO 8601 with an offset or Z; what is left out means now,
and now() is read at the library's facade, never in the kernel.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli import (
    compare_knowledge,
    definitions,
    forget,
    init,
    loading,
    online,
    store,
    streams,
    training_set,
    verify,
)
from featurestore.cli.output import report_error
from featurestore.cli.usage import UsageError
from featurestore.errors import FeatureStoreError

INTERRUPTED = 130

app = typer.Typer(
    name="featurestore",
    help="Declare features once; get training sets as of any instant and online values, the same bits.",
    epilog="Start with: featurestore init demo && cd demo && featurestore plan",
    add_completion=False,
    rich_markup_mode=None,
)
app.command(short_help="Write a small project that runs.")(init.init)
app.command(short_help="Show what apply would change.")(definitions.plan)
app.command(short_help="Record the declarations in the store.")(definitions.apply)
app.command(short_help="Load the history of the logs into the store.")(loading.backfill)
app.command("training-set", short_help="Write features as of a spine's times.")(training_set.training_set)
app.command(short_help="Show what differs between two horizons of knowledge, and why.")(
    compare_knowledge.compare_knowledge
)
app.command(short_help="Push rows into a source.")(loading.ingest)
app.command(short_help="Consume topics into the store.")(streams.stream)
app.command(short_help="Show where streams stand.")(streams.status)
app.add_typer(streams.dead_letters, name="dead-letters")
app.command(short_help="Serve features over HTTP.")(online.serve)
app.command(short_help="Fetch features, or explain their values.")(online.get)
app.command(short_help="Compute logged answers once more, and compare the bits.")(verify.verify)
app.command(short_help="Erase an entity for good.")(forget.forget)
app.command(short_help="Print how features are computed.")(definitions.explain)
app.add_typer(store.versions, name="versions")
app.command(short_help="Fold small rows and give space back.")(store.compact)
app.command(short_help="Bring the store to this release's schema.")(store.migrate)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"featurestore {version('featurestore')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    directory: Annotated[
        Path,
        typer.Option("-C", metavar="DIR", help="Run as if started in DIR; relative paths are read there."),
    ] = Path(),
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
    if not directory.is_dir():
        raise UsageError(f'-C: no directory "{directory}"', hint="make one with: featurestore init DIR")
    context.with_resource(contextlib.chdir(directory))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; only a bug leaves a traceback."""
    try:
        command_line = typer.main.get_command(app)
        code = command_line.main(list(arguments), prog_name="featurestore", standalone_mode=False)
        if sys.stdout is not None:  # None: the process was started with it closed
            sys.stdout.flush()
    except UsageError as error:
        report_error(error.fact, error.hint)
        return 2
    except FeatureStoreError as error:
        report_error(error.fact, error.hint)
        return 1
    except typer.TyperException as error:
        fact = error.format_message().removesuffix(".")
        command = getattr(getattr(error, "ctx", None), "command_path", "featurestore")
        report_error(fact[:1].lower() + fact[1:], f"{command} --help shows how it is used")
        return error.exit_code
    except typer.Abort:
        report_error("stopped: input ended", None)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        fact = (error.strerror or str(error)).lower()
        if error.filename is not None:
            report_error(f'"{error.filename}": {fact}', None)
        else:
            _leave_stdout()
            report_error(f"the output can't be written: {fact}", "look at where it goes")
        return 1
    return code if isinstance(code, int) else 0


def _leave_stdout() -> None:
    """Let nothing more be written to where writing fails, so that the interpreter can end quietly."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
