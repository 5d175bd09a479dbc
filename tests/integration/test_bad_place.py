"""A store, a disk, a setting or a terminal that fails: said with the way out, and nothing is half done."""

from __future__ import annotations

import ctypes
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from featurestore import FeatureStore
from tests.integration import bad_input_project as made

MAIN = "import sys; from featurestore.cli import main; sys.exit(main())"


def process(
    root: Path, *arguments: str, before: Callable[[], object] | None = None, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=root,
        preexec_fn=before,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )


def failed(run: subprocess.CompletedProcess[str]) -> str:
    """The first line of what a process refused; it has a hint and no traceback."""
    messages = [line for line in run.stderr.splitlines() if not line.startswith("compiling the kernel")]
    assert run.returncode == 1, run.stderr
    assert messages[0].startswith("error: "), run.stderr
    assert any(line.startswith("hint: ") for line in messages), run.stderr
    assert "Traceback" not in run.stderr
    return messages[0].removeprefix("error: ")


def obey_permissions() -> None:
    """Give up root's right to write what its permissions forbid; for anybody else there is nothing to do."""
    bounding_set_drop, dac_override = 24, 1
    ctypes.CDLL(None).prctl(bounding_set_drop, dac_override, 0, 0, 0)


def at_most(size: int) -> Callable[[], None]:
    """No file may grow beyond ``size`` bytes, as on a disk that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = made.project(tmp_path / "project")
    made.write(root / "spine.parquet", made.spine())
    made.write(root / "rows.jsonl", '{"id": "x", "card": "c1", "ts": "2026-01-01T03:00:00Z", "n": 9}\n')
    return root


@pytest.fixture
def filled(root: Path) -> Path:
    made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    return root


TRAIN = ("training-set", "spine.parquet", "-f", "v", "-o", "train.parquet")
INGEST = ("ingest", "tx", "rows.jsonl")


def test_a_directory_that_can_not_be_written_has_no_store_made_in_it(root: Path) -> None:
    root.chmod(0o555)
    try:
        run = process(root, "apply", before=obey_permissions)
    finally:
        root.chmod(0o755)
    store = root / ".featurestore/store.db"
    assert failed(run) == f"store {store}: it can't be opened (Permission denied)"
    made.succeeds(root, "apply")


@pytest.mark.parametrize("arguments", [("backfill",), INGEST, ("apply",)])
def test_a_store_that_can_not_be_written_is_named(filled: Path, arguments: Sequence[str]) -> None:
    store = filled / ".featurestore"
    before = [path.read_bytes() for path in sorted(store.iterdir())]
    for path in (*store.iterdir(), store):
        path.chmod(0o555)
    try:
        run = process(filled, *arguments, before=obey_permissions)
    finally:
        for path in (store, *store.iterdir()):
            path.chmod(0o755)
    assert failed(run) == f"store {store / 'store.db'}: it can't be written"
    assert [path.read_bytes() for path in sorted(store.iterdir())] == before
    made.succeeds(filled, *arguments)


def test_a_training_set_is_not_written_where_nothing_can_be(filled: Path) -> None:
    (filled / "out").mkdir(mode=0o555)
    run = process(filled, *TRAIN[:-1], "out/train.parquet", before=obey_permissions)
    assert failed(run) == 'training set can\'t be written to "out/train.parquet": permission denied'


@pytest.mark.parametrize(
    "out", ["absent/train.parquet", "features.py/train.parquet", "data", "", "/", ".", "x" * 300]
)
def test_a_training_set_is_not_written_to_what_is_no_file(root: Path, out: str) -> None:
    assert made.refused(root, *TRAIN[:-1], out).startswith("training set can't be written to ")
    assert sorted(path.name for path in root.iterdir()) == [
        "data",
        "features.py",
        "rows.jsonl",
        "spine.parquet",
    ]


def test_a_device_is_not_replaced_by_a_training_set(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert made.refused(root, *TRAIN[:-1], str(tmp_path / "pipe")).endswith("it is no file")
    assert (tmp_path / "pipe").is_fifo()


def test_a_training_set_that_finds_the_disk_full_leaves_nothing_behind(root: Path) -> None:
    run = process(root, *TRAIN, before=at_most(100))
    assert failed(run) == 'training set can\'t be written to "train.parquet": file too large'
    assert not list(root.glob("*train*"))
    assert not list(root.glob(".*train*"))


def test_an_apply_that_finds_the_disk_full_makes_no_store_that_half_works(root: Path) -> None:
    run = process(root, "apply", before=at_most(100_000))
    assert failed(run).startswith(f"store {root / '.featurestore/store.db'}: the disk ")
    made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    made.asked_both_ways(root)


@pytest.mark.parametrize("arguments", [("backfill",), INGEST])
def test_a_write_that_finds_the_disk_full_is_kept_as_a_whole_or_not_at_all(
    root: Path, arguments: Sequence[str]
) -> None:
    made.succeeds(root, "apply")
    if arguments == INGEST:
        made.succeeds(root, "backfill")
    run = process(root, *arguments, before=at_most(20_000))
    assert failed(run).startswith(f"store {root / '.featurestore/store.db'}: the disk ")
    made.succeeds(root, *arguments)
    made.succeeds(root, "backfill")
    assert made.asked_both_ways(root)["v__count_1d"] == ([3, 1, 0] if arguments == INGEST else [2, 1, 0])


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
def test_output_that_can_not_be_written_is_said_without_a_traceback(filled: Path) -> None:
    with open("/dev/full", "w") as full:
        for arguments in (("plan",), ("get", "v", "-e", "card=c1"), ("explain", "--json")):
            run = process(filled, *arguments, stdout=full.fileno())
            assert failed(run) == "the output can't be written: no space left on device"


def test_a_command_may_run_without_an_output(filled: Path) -> None:
    run = process(filled, "plan", before=lambda: os.close(1))
    assert (run.returncode, run.stderr) == (0, "")


# Stores


@pytest.mark.parametrize(
    "arguments", [("plan",), ("apply",), ("backfill",), ("get", "v", "-e", "card=c1"), TRAIN]
)
@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (lambda _: b"text" * 5000, "it is not a SQLite database"),
        (lambda whole: whole[: len(whole) // 2], "its file is damaged"),
    ],
)
def test_a_damaged_store_is_named(
    filled: Path, arguments: Sequence[str], damage: Callable[[bytes], bytes], fact: str
) -> None:
    store = filled / ".featurestore/store.db"
    store.write_bytes(damage(store.read_bytes()))
    assert made.refused(filled, *arguments) == f"store {store}: {fact}"


@pytest.mark.parametrize(
    "arguments", [("plan",), ("apply",), ("migrate",), ("backfill",), ("get", "v", "-e", "card=c1"), TRAIN]
)
def test_a_store_of_a_newer_version_is_refused(filled: Path, arguments: Sequence[str]) -> None:
    store = filled / ".featurestore/store.db"
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert made.refused(filled, *arguments).startswith(
        f"store {store}: written by a newer featurestore (schema 9999;"
    )


@pytest.mark.parametrize("bring", ["apply", "migrate"])
def test_a_store_of_an_older_revision_is_brought_forward(root: Path, bring: str) -> None:
    # The oldest revision there is: a file without tables.
    (root / ".featurestore").mkdir()
    sqlite3.connect(root / ".featurestore/store.db").close()
    (root / ".featurestore/store.db").touch()
    assert made.refused(root, "plan").endswith("it has no tables yet")
    made.succeeds(root, bring)
    made.succeeds(root, "apply")
    made.succeeds(root, "backfill")
    made.asked_both_ways(root)


@pytest.mark.parametrize(
    "arguments", [("backfill",), ("get", "v", "-e", "card=c1"), ("versions", "list"), INGEST]
)
def test_without_a_store_a_command_says_how_to_make_one(root: Path, arguments: Sequence[str]) -> None:
    assert made.refused(root, *arguments) == "there is no store at .featurestore/store.db yet"


@pytest.mark.parametrize(
    "arguments", [("plan",), ("backfill",), ("get", "v", "-e", "card=c1"), ("versions", "list"), INGEST]
)
def test_a_directory_that_is_no_project_is_named(tmp_path: Path, arguments: Sequence[str]) -> None:
    # The project's own data, say: one directory too deep.
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.jsonl").write_text("")
    assert made.refused(tmp_path / "data", *arguments) == f"there is no features.py in {tmp_path / 'data'}"


def test_a_store_without_declarations_can_be_read(filled: Path) -> None:
    (filled / "features.py").unlink()
    assert made.succeeds(filled, "get", "v:count_1d", "-e", "card=c1", "--as-of", made.NOON)


# Settings


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("x", "featurestore.toml can't be read: Expected '='"),
        ("foo = 1", 'setting "foo": extra inputs are not permitted'),
        ("features = 3", 'setting "features": input should be a valid string'),
        ("[store]\nurl = 5", 'setting "store.url": input should be a valid string'),
        ("[store]\nurl = ''", 'setting "store.url": string should have at least 1 character'),
        ("[store]\nfoo = 1", 'setting "store.foo": extra inputs are not permitted'),
        ("[engine]\nthreads = -1", 'setting "engine.threads": input should be greater than or equal to 0'),
        ("[serving]\nport = 99999", 'setting "serving.port": input should be less than or equal to 65535'),
        (b"\xff\xfe", "featurestore.toml can't be read: 'utf-8' codec"),
        (
            "[store]\nurl = 'mysql://user:secret@host/db'",
            '"mysql://user:***@host/db" is not a store',
        ),
        ("[store]\nurl = 'features.py'", "store {root}/features.py: it is not a SQLite database"),
        ("[store]\nurl = 'data'", "store {root}/data: it can't be opened"),
        ("[store]\nurl = 'features.py/store.db'", "store {root}/features.py/store.db: it can't be opened"),
        ("features = 'absent.py'", "there is no absent.py in {root}"),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(root: Path, text: str | bytes, fact: str) -> None:
    made.write(root / "featurestore.toml", text)
    assert made.refused(root, "apply").startswith(fact.format(root=root))


@pytest.mark.parametrize(
    ("name", "value", "fact"),
    [
        ("FEATURESTORE_STORE", "abc", "a FEATURESTORE_* variable can't be read: "),
        ("FEATURESTORE_ENGINE__THREADS", "x", 'setting "engine.threads": input should be a valid integer'),
        ("FEATURESTORE_STORE__FOO", "1", 'setting "store.foo": extra inputs are not permitted'),
    ],
)
def test_a_variable_that_can_not_be_used_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, fact: str
) -> None:
    monkeypatch.setenv(name, value)
    assert made.refused(root, "plan").startswith(fact)


def test_a_path_in_a_url_is_the_projects_too(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made.write(root / "featurestore.toml", "[store]\nurl = 'sqlite:///kept/store.db'\n")
    monkeypatch.chdir(tmp_path)
    with FeatureStore(root) as store:
        assert not store.plan().applied
        store.apply()
    assert (root / "kept/store.db").is_file()


# The command line


@pytest.mark.parametrize(
    "arguments",
    [
        ("nope",),
        ("--nope",),
        ("plan", "x"),
        ("get",),
        ("get", "v"),
        ("get", "v", "-e", "card"),
        ("get", "v", "-e", "=c1"),
        ("get", "", "-e", "card=c1"),
        ("get", "v", "-e", "card=c1", "-e", "card=c2", "-e", "n=1"),
        ("get", "v", "-e", "card=c1", "--as-of", "noon"),
        ("get", "v", "-e", "card=c1", "--as-of", "2026-01-01T00:00:00"),
        ("get", "v", "-e", "card=c1", "--explain"),
        ("training-set", "spine.parquet"),
        ("training-set", "spine.parquet", "-f", ",", "-o", "train.parquet"),
        ("training-set", "spine.parquet", "-f", "v"),
        (*TRAIN, "--known-at", "noon"),
        ("ingest", "tx"),
        ("versions",),
        ("versions", "drop", "v"),
        ("serve", "--port", "0"),
    ],
)
def test_a_command_line_that_can_not_be_run_has_exit_code_2(root: Path, arguments: Sequence[str]) -> None:
    assert made.refused(root, *arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("get", "w", "-e", "card=c1"), 'no feature view "w"'),
        (("get", "v:cuont_1d", "-e", "card=c1"), 'feature view "v" has no feature "cuont_1d"'),
        (("get", "v", "-e", "crd=c1"), 'no values for "card", the key of entity "card"'),
        (("get", "v", "-e", "card=c1", "-e", "n=1"), 'entity column "n" is no key of the features asked for'),
        (("get", "v@9", "-e", "card=c1"), 'no feature view "v@9"'),
        (("explain", "w"), 'no feature view "w"'),
        (("explain", "v:cuont_1d"), 'feature view "v" has no feature "cuont_1d"'),
        (("backfill", "w"), 'no feature view "w"'),
        (("ingest", "xt", "rows.jsonl"), 'no source "xt"'),
        (("ingest", "tx", "features.py"), 'file "features.py" is of no kind that can be pushed'),
        (
            ("training-set", "absent.csv", "-f", "v", "-o", "o.parquet"),
            'spine: log file "absent.csv" does not exist',
        ),
        (("init", "."), 'project ".": features.py is already there'),
    ],
)
def test_a_name_that_nothing_has_is_answered_with_what_there_is(
    filled: Path, arguments: Sequence[str], fact: str
) -> None:
    assert made.refused(filled, *arguments) == fact
