"""The command line without a store: help, usage errors, exit codes, instants, output, what init writes."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from featurestore.cli import output, sample, usage
from featurestore.cli.application import run
from featurestore.errors import DefinitionError
from featurestore.settings import Settings

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "init",
    "plan",
    "apply",
    "backfill",
    "training-set",
    "compare-knowledge",
    "ingest",
    "serve",
    "get",
    "explain",
    "compact",
    "migrate",
]
# What makes a start slow. How slow it is, the benchmark startup says.
HEAVY = {
    "pyarrow",
    "numpy",
    "numba",
    "llvmlite",
    "duckdb",
    "sqlalchemy",
    "alembic",
    "psycopg",
    "pydantic",
    "pandas",
    "polars",
    "scipy",
    "sklearn",
    "matplotlib",
    "sqlglot",
    "kafka",
    "fastapi",
    "starlette",
    "uvicorn",
    "prometheus_client",
    "rich",
    "api",
    "streaming",
}


def heavy_modules_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter holds after ``code``."""
    script = (
        f"import sys\n{code}\nprint(*sorted(name.split('.')[0] for name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return HEAVY & set(done.stderr.split())


def test_importing_the_library_imports_nothing_heavy() -> None:
    assert heavy_modules_after("import featurestore") == set()


def test_the_names_of_declarations_import_nothing_heavy() -> None:
    declared = "from featurestore import Entity, EventSource, FeatureService, FeatureView, Parquet, agg"
    assert heavy_modules_after(declared) == set()


def test_help_imports_nothing_heavy() -> None:
    asked = "sys.argv = ['featurestore', '--help']\nfrom featurestore.cli import main\nassert main() == 0"
    assert heavy_modules_after(asked) == set()


def test_help_of_a_command_imports_nothing_heavy() -> None:
    asked = (
        "sys.argv = ['featurestore', 'get', '--help']\nfrom featurestore.cli import main\nassert main() == 0"
    )
    # typer itself reads the types of options by way of pydantic.
    assert heavy_modules_after(asked) <= {"pydantic"}


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = [
        line.split()[0] for line in capsys.readouterr().out.split("Commands:")[1].splitlines() if line.strip()
    ]
    assert {*COMMANDS, "versions"} <= set(listed)


@pytest.mark.parametrize(
    "command",
    [[name] for name in COMMANDS] + [["versions", "list"], ["versions", "switch"], ["versions", "drop"]],
    ids=" ".join,
)
def test_every_command_teaches_with_an_example_and_has_json(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example:\n    featurestore {' '.join(command)}" in shown
    assert "--json" in shown


def test_a_command_line_without_a_command_shows_help_and_is_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Commands:" in shown.err


@pytest.mark.parametrize(
    ("arguments", "fact", "hint"),
    [
        (["bad"], "no such command 'bad'", "featurestore --help shows how it is used"),
        (["plan", "--foo"], "no such option: --foo", "featurestore plan --help shows how it is used"),
        (["get", "a:b"], "missing option '--entity' / '-e'", "featurestore get --help shows how it is used"),
        (["-C", "nowhere", "plan"], '-C: no directory "nowhere"', "make one with: featurestore init DIR"),
        (["get", "a:b", "-e", "x"], '--entity: "x" is not KEY=VALUE', "write it like --entity card_id=c1"),
        (
            ["get", "a:b", "-e", "x=1", "-e", "y=1", "-e", "y=2"],
            "--entity: the keys have different numbers of values (x has 1, y has 2)",
            "give every key once per entity: -e origin=JFK -e carrier=AA -e origin=LGA -e carrier=DL",
        ),
        (
            ["get", "a:b", "-e", "x=1", "--as-of", "2026-01-01T00:00:00"],
            '--as-of "2026-01-01T00:00:00" is not an instant',
            'write ISO 8601 with an offset: "2026-01-01T00:00:00Z"',
        ),
        (
            ["training-set", "s.csv", "-f", "m", "-o", "t.parquet", "--known-at", "yesterday"],
            '--known-at "yesterday" is not an instant',
            'write ISO 8601 with an offset: "2026-01-01T00:00:00Z", or as_of',
        ),
        (
            ["get", ",", "-e", "x=1"],
            "no feature is named",
            "name features like card_activity:count_5m, or a service",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_exits_with_2_and_says_the_way_out(
    arguments: list[str], fact: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"error: {fact}\nhint: {hint}\n"


def raising(error: BaseException) -> Callable[..., None]:
    def command(*_: object) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (DefinitionError("the fact", hint="the way out"), 1, "error: the fact\nhint: the way out\n"),
        (DefinitionError("the fact"), 1, "error: the fact\n"),
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "x.csv"), 1, 'error: "x.csv": permission denied\n'),
    ],
    ids=["fact and hint", "fact", "interrupted", "a file of the system"],
)
def test_a_failed_command_exits_without_a_traceback(
    error: BaseException,
    code: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sample, "files", raising(error))
    assert run(["init", "somewhere"]) == code
    assert capsys.readouterr().err == shown


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "files", raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        run(["init", "somewhere"])


def test_a_directory_without_a_project_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    script = "import sys; from featurestore.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, "-C", str(tmp_path), "plan"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "\nhint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_init_writes_the_same_project_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-C", str(tmp_path), "init", "one"]) == 0
    assert run(["-C", str(tmp_path), "init", "two", "--json"]) == 0
    written = json.loads(capsys.readouterr().out.split("one/spine.csv\n")[1])
    assert written["directory"] == str(tmp_path / "two")
    assert written["files"] == ["features.py", "featurestore.toml", "data/transactions.csv", "spine.csv"]
    for name in written["files"]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    compile((tmp_path / "one/features.py").read_text(), "features.py", "exec")


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "features.py").write_text("mine")
    assert run(["-C", str(tmp_path), "init"]) == 1
    assert capsys.readouterr().err.startswith('error: project ".": features.py is already there\nhint: ')
    assert [path.name for path in tmp_path.iterdir()] == ["features.py"]
    assert (tmp_path / "features.py").read_text() == "mine"


def test_the_settings_that_init_writes_as_comments_are_the_defaults() -> None:
    text = sample.files()["featurestore.toml"]
    assert Settings(**tomllib.loads(text)) == Settings()
    shown = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert set(shown) == {"features", "store", "engine", "serving"}
    assert Settings(**shown) == Settings()


def test_every_generated_transaction_lies_before_the_instant_of_the_printed_commands() -> None:
    rows = [line.split(",") for line in sample.files()["data/transactions.csv"].splitlines()[1:]]
    assert len(rows) == 600
    assert max(row[2] for row in rows) < sample.END
    assert len({row[0] for row in rows}) == len(rows)


def test_a_directory_given_with_C_is_left_again(tmp_path: Path) -> None:
    before = Path.cwd()
    assert run(["-C", str(tmp_path), "init"]) == 0
    assert Path.cwd() == before


def test_a_horizon_is_an_instant_or_follows_the_question() -> None:
    for known_at in ("as_of", "2026-01-01T01:30:00+01:30", None):
        usage.check_times(known_at=known_at)
    with pytest.raises(usage.UsageError):
        usage.check_times(as_of="as_of")


def test_entities_are_columns_in_the_order_given() -> None:
    assert usage.entities(["a=1", "b=x=y", "a=2", "b="]) == {"a": ["1", "2"], "b": ["x=y", ""]}


def test_one_name_without_a_view_is_a_service() -> None:
    assert usage.feature_names(["fraud_model"]) == "fraud_model"
    assert usage.feature_names(["v:a,v:b", "w:c"]) == ["v:a", "v:b", "w:c"]
    assert usage.feature_names(["v:a"]) == ["v:a"]


def test_json_carries_what_json_has_no_number_for(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_json(
        {
            "floats": [0.1, math.nan, math.inf, -math.inf],
            "decimal": Decimal("1.10"),
            "time": datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
            "map": {1: None},
        }
    )
    assert json.loads(capsys.readouterr().out) == {
        "floats": [0.1, "NaN", "Infinity", "-Infinity"],
        "decimal": "1.10",
        "time": "2026-01-01T00:00:00.000001Z",
        "map": {"1": None},
    }


def test_columns_stand_side_by_side_and_null_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_columns(["card_id", "n"], [["c1", "c2"], [3, None]])
    assert capsys.readouterr().out == "card_id  n\nc1       3\nc2       -\n"


def test_progress_off_a_terminal_is_lines_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "LINE_PERIOD_S", 0.0)
    with output.Progress() as progress:
        progress(1000, 2000, "transactions")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "transactions: 1,000 of 2,000\n"


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with output.Progress() as progress:
        progress(1000, 2000, "transactions")
    assert "transactions" in terminal.getvalue()
    assert "50%" in terminal.getvalue()
