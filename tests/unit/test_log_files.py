"""Which files a log is made of, its schema, and what is said about logs that can't be read."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.dsl.entity import Entity
from featurestore.dsl.log import CSV, DuckDBTable, JSONLines, Log, Parquet
from featurestore.dsl.source import EventSource
from featurestore.errors import DefinitionError, LogError
from featurestore.log import csv_files
from featurestore.log.files import list_files
from featurestore.log.scan import scan
from featurestore.log.schema import raw_schema, source_columns
from featurestore.log.versions import read_versions

card = Entity("card", key="card_id")


def write(path: Path, **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def shown(log: Log, root: Path) -> list[str]:
    return [file.shown for file in list_files(log, root)]


def rows(log: Log, root: Path, columns: list[str]) -> list[dict[str, object]]:
    return [row for batch in scan(log, root, columns) for row in batch.table.to_pylist()]


def purchases(log: Log, **more: object) -> EventSource:
    return EventSource("purchases", log=log, event_time="ts", **more)  # type: ignore[arg-type]


def versions(source: EventSource, root: Path) -> list[dict[str, object]]:
    return [row for part in read_versions(source, card, None, root) for row in part.table.to_pylist()]


def error_of(log: Log, root: Path, columns: list[str] | None = None) -> str:
    with pytest.raises(LogError) as raised:
        for _ in scan(log, root, columns or list(raw_schema(log, root))):
            pass
    assert raised.value.hint
    return str(raised.value)


def test_a_path_is_a_file_a_glob_or_a_directory_and_files_come_sorted_each_once(tmp_path: Path):
    for name in (
        "d/b.parquet",
        "d/a.parquet",
        "d/deep/c.parquet",
        "d/_tmp.parquet",
        "d/.hidden.parquet",
        "d/x.txt",
    ):
        write(tmp_path / name, a=[1])
    write(tmp_path / "d/_temporary/z.parquet", a=[1])
    assert shown(Parquet("d/a.parquet"), tmp_path) == ["d/a.parquet"]
    assert shown(Parquet("d/*.parquet"), tmp_path) == ["d/a.parquet", "d/b.parquet"]
    assert shown(Parquet("d/_*.parquet"), tmp_path) == ["d/_tmp.parquet"]
    assert shown(Parquet("d/**/*.parquet"), tmp_path) == ["d/a.parquet", "d/b.parquet", "d/deep/c.parquet"]
    assert shown(Parquet("d"), tmp_path) == ["d/a.parquet", "d/b.parquet", "d/deep/c.parquet"]
    assert shown(Parquet(["d/b.parquet", "d"]), tmp_path) == [
        "d/a.parquet",
        "d/b.parquet",
        "d/deep/c.parquet",
    ]


def test_a_file_outside_the_root_is_shown_by_its_absolute_path(tmp_path: Path):
    path = write(tmp_path / "elsewhere/a.parquet", a=[1])
    assert shown(Parquet(str(path)), tmp_path / "project") == [path.as_posix()]
    assert shown(Parquet("../elsewhere/a.parquet"), tmp_path / "project") == [path.as_posix()]


def test_a_file_with_a_glob_s_characters_in_its_name_is_found_and_read(tmp_path: Path):
    (tmp_path / "a[1].csv").write_text("x\n1\n")
    (tmp_path / "b*.csv").write_text("x\n2\n")
    (tmp_path / "o'k \".csv").write_text("x\n3\n")
    (tmp_path / "bb.csv").write_text("x\n9\n")
    for name, value in (("a[1].csv", "1"), ("b*.csv", "2"), ("o'k \".csv", "3")):
        assert rows(CSV(name), tmp_path, ["x"]) == [{"x": value}]


def test_a_file_s_identity_is_its_size_time_and_hash(tmp_path: Path):
    path = write(tmp_path / "a.parquet", a=[1])
    (file,) = list_files(Parquet("a.parquet"), tmp_path)
    assert (file.size, file.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_file_an_empty_glob_and_an_empty_directory_are_named(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert 'log file "a.parquet" does not exist' in error_of(Parquet("a.parquet"), tmp_path)
    assert 'no file matches "data/*.parquet"' in error_of(Parquet("data/*.parquet"), tmp_path)
    assert 'log directory "empty" holds no file to read' in error_of(Parquet("empty"), tmp_path)


def test_a_file_that_went_away_after_it_was_listed_is_named(tmp_path: Path):
    for log, name in (
        (Parquet("a.parquet"), "a.parquet"),
        (JSONLines("a.jsonl"), "a.jsonl"),
        (CSV("a.csv"), "a.csv"),
    ):
        (tmp_path / name).write_text("x")
        files = list_files(log, tmp_path)
        os.remove(tmp_path / name)
        with pytest.raises(LogError, match=f'log file "{name}" is gone'):
            list(scan(log, tmp_path, ["x"], files))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path: Path):
    write(tmp_path / "a.parquet", a=[1]).chmod(0)
    assert "may not be read by this user" in error_of(Parquet("a.parquet"), tmp_path)


def test_a_truncated_damaged_or_empty_parquet_file_is_named(tmp_path: Path):
    whole = write(tmp_path / "whole.parquet", a=list(range(1000))).read_bytes()
    for name, data in (
        ("cut", whole[:-20]),
        ("half", whole[: len(whole) // 2]),
        ("text", b"a,b\n1,2\n"),
        ("no", b""),
    ):
        (tmp_path / f"{name}.parquet").write_bytes(data)
        assert f'log file "{name}.parquet" is' in error_of(Parquet(f"{name}.parquet"), tmp_path)
    damaged = whole[:4] + bytes(200) + whole[204:]
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    assert 'log file "damaged.parquet"' in error_of(Parquet("damaged.parquet"), tmp_path, ["a"])


def test_a_parquet_file_without_rows_is_a_log_without_rows(tmp_path: Path):
    write(tmp_path / "a.parquet", a=pa.array([], pa.int64()))
    assert raw_schema(Parquet("a.parquet"), tmp_path) == {"a": pa.int64()}
    assert rows(Parquet("a.parquet"), tmp_path, ["a"]) == []


def test_files_of_another_schema_are_both_named_with_column_and_types(tmp_path: Path):
    write(tmp_path / "d/1.parquet", a=[1], b=[1])
    write(tmp_path / "d/2.parquet", a=[1], b=["x"])
    text = error_of(Parquet("d"), tmp_path)
    assert 'column "b" is int64 in log file "d/1.parquet" and string in "d/2.parquet"' in text


def test_a_naive_time_in_one_file_and_an_instant_in_another_are_different_types(tmp_path: Path):
    write(tmp_path / "d/1.parquet", t=pa.array([1], pa.timestamp("us")))
    write(tmp_path / "d/2.parquet", t=pa.array([1], pa.timestamp("us", "UTC")))
    assert 'column "t"' in error_of(Parquet("d"), tmp_path)


def test_widths_meet_encodings_do_not_matter_and_a_new_column_is_null_before(tmp_path: Path):
    write(
        tmp_path / "d/1.parquet",
        i=pa.array([1], pa.int8()), f=pa.array([1], pa.int32()), s=pa.array(["x"]).dictionary_encode(),
    )  # fmt: skip
    write(
        tmp_path / "d/2.parquet",
        i=pa.array([2], pa.int64()), f=pa.array([0.5], pa.float32()),
        s=pa.array(["y"], pa.large_string()), n=[5],
    )  # fmt: skip
    found = raw_schema(Parquet("d"), tmp_path)
    assert found == {"i": pa.int64(), "f": pa.float64(), "s": pa.string(), "n": pa.int64()}
    key = pa.array(["c", "c"])
    write(
        tmp_path / "e/1.parquet",
        card_id=key,
        ts=pa.array([0, 1], pa.timestamp("s")),
        i=pa.array([1, 2], pa.int8()),
    )
    write(
        tmp_path / "e/2.parquet", card_id=key, ts=pa.array([2, 3], pa.timestamp("s")), i=[3, 4], n=["x", "y"]
    )
    read = versions(purchases(Parquet("e")), tmp_path)
    assert [(row["i"], row["n"]) for row in read] == [(1, None), (2, None), (3, "x"), (4, "y")]


def test_directories_of_hive_partitions_are_columns(tmp_path: Path):
    write(tmp_path / "d/day=2026-01-01/shop=a%2Fb/1.parquet", x=[1])
    write(tmp_path / "d/day=2026-01-02/shop=__HIVE_DEFAULT_PARTITION__/1.parquet", x=[2])
    found = raw_schema(Parquet("d"), tmp_path)
    assert found == {"x": pa.int64(), "day": pa.date32(), "shop": pa.string()}
    assert rows(Parquet("d"), tmp_path, ["x", "day", "shop"]) == [
        {"x": 1, "day": "2026-01-01", "shop": "a/b"},
        {"x": 2, "day": "2026-01-02", "shop": None},
    ]
    assert "day" not in raw_schema(Parquet("d", hive_partitioning=False), tmp_path)


def test_partitions_that_disagree_are_refused(tmp_path: Path):
    write(tmp_path / "d/day=1/1.parquet", x=[1])
    write(tmp_path / "d/2.parquet", x=[1])
    assert "lie in directories of different columns" in error_of(Parquet("d"), tmp_path)
    assert "lies in no column=value directory" in error_of(
        Parquet("d/2.parquet", hive_partitioning=True), tmp_path
    )


def test_rows_are_numbered_by_file(tmp_path: Path):
    for name in ("a", "b"):
        pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / f"{name}.parquet", row_group_size=2)
    batches = list(scan(Parquet("*.parquet"), tmp_path, ["x"]))
    assert [(batch.file.shown, batch.first_row) for batch in batches] == [
        ("a.parquet", 0), ("a.parquet", 2), ("b.parquet", 0), ("b.parquet", 2),
    ]  # fmt: skip


STRANGE = [
    "select",
    'a "quoted" name',
    "with space",
    "a.b",
    "a;drop",
    "ü",
    "x'y",
    "Group",
    "group",
    "{c}",
    "?",
    "$1",
]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "duckdb"])
def test_columns_named_like_keywords_or_with_quotes_and_spaces_are_read(tmp_path: Path, kind: str):
    names = [name for name in STRANGE if kind != "duckdb" or name != "group"]
    table = pa.table({name: [i, i + 1] for i, name in enumerate(names)})
    log: Log
    match kind:
        case "parquet":
            pq.write_table(table, tmp_path / "a.parquet")
            log = Parquet("a.parquet")
        case "csv":
            quoted = ('"' + name.replace('"', '""') + '"' for name in names)
            lines = [",".join(quoted), *(",".join(str(i + k) for i in range(len(names))) for k in (0, 1))]
            (tmp_path / "a.csv").write_text("\n".join(lines))
            log = CSV("a.csv")
        case "jsonl":
            (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
            log = JSONLines("a.jsonl")
        case _:
            with duckdb.connect(str(tmp_path / "a.duckdb")) as con:
                con.register("given", table)
                con.execute('CREATE TABLE "select * from ""x""" AS SELECT * FROM given')
            log = DuckDBTable("a.duckdb", 'select * from "x"')
    assert list(raw_schema(log, tmp_path)) == names
    source = EventSource("s", log=log, event_time="with space", time_unit="s", columns=[names[1], "select"])
    parts = [part.table for part in read_versions(source, Entity("e", key=names[0]), None, tmp_path)]
    assert parts[0].column_names == [names[1], "select", "with space"]
    assert pa.concat_tables(parts).column(names[1]).to_pylist() == [1, 2]


def test_csv_types_are_inferred_over_all_rows(tmp_path: Path):
    lines = ["i,f,b,t,d,zip,big,mixed,empty,words,s"]
    lines += ["1,1,true,2026-01-01T00:00:00Z,2026-01-01,07001,1,1,,nan,x"] * 3000
    lines += ["-2,1e3,FALSE,2026-01-02,2026-02-28,10115,99999999999999999999,x,,inf,"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert raw_schema(CSV("a.csv"), tmp_path) == {
        "i": pa.int64(), "f": pa.float64(), "b": pa.bool_(), "t": pa.timestamp("us", "UTC"), "d": pa.date32(),
        "zip": pa.string(), "big": pa.string(), "mixed": pa.string(), "empty": pa.string(),
        "words": pa.string(),
        "s": pa.string(),
    }  # fmt: skip


def test_a_csv_column_that_is_text_in_one_file_only_is_text(tmp_path: Path):
    (tmp_path / "1.csv").write_text("a\n1\n")
    (tmp_path / "2.csv").write_text("a,b\nx,1\n")
    assert raw_schema(CSV("*.csv"), tmp_path) == {"a": pa.string(), "b": pa.int64()}


def test_csv_quotes_nulls_newlines_delimiters_and_marks_are_read(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfa;b\r\n"x;\n""y""";NA\r\n"";"NA"\r\n z ;""\r\n')
    log = CSV("a.csv", delimiter=";", null_values=["NA"])
    assert rows(log, tmp_path, ["a", "b"]) == [
        {"a": 'x;\n"y"', "b": None}, {"a": "", "b": None}, {"a": " z ", "b": ""},
    ]  # fmt: skip
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"1,2\n3,4\n"))
    bare = CSV("b.csv.gz", header=False, columns=["p", "q"])
    assert rows(bare, tmp_path, ["q"]) == [{"q": "2"}, {"q": "4"}]


def test_an_empty_csv_is_refused_and_a_header_alone_is_a_log_without_rows(tmp_path: Path):
    (tmp_path / "a.csv").write_text("")
    assert 'log file "a.csv" is empty: no header' in error_of(CSV("a.csv"), tmp_path)
    (tmp_path / "a.csv").write_text("x,y\n")
    assert raw_schema(CSV("a.csv"), tmp_path) == {"x": pa.string(), "y": pa.string()}
    assert rows(CSV("a.csv"), tmp_path, ["x"]) == []


FIELDS = st.text(st.sampled_from(list('ab ,"\n\r;x')), max_size=6)


@given(
    st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=12),
    st.integers(1, 40),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_is_read_as_python_s_csv_module_writes_it_whatever_the_blocks(records, block, end):
    text = io.StringIO()
    quoting = (
        csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL
    )  # which leaves a lone CR bare where lines end in LF
    csv.writer(text, lineterminator=end, quoting=quoting).writerows([("p", "q", "r"), *records])
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "_BLOCK_BYTES", block)
        Path(folder, "a.csv").write_text(text.getvalue(), newline="")
        read = rows(CSV("a.csv", null_values=[]), Path(folder), ["r", "p", "q"])
    assert [(row["p"], row["q"], row["r"]) for row in read] == records


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (b"a,b\n1,2\n3\n", "line 3: 1 fields where the header has 2"),
        (b"a,b\n1,2\n3,4,5\n", "line 3: 3 fields where the header has 2"),
        (b'a,b\n1,2\n3,"cut', "line 3: a quote is not closed"),
        (b'a,b\n1,"2\n2"\n\n3,"4"x\n', "line 5: something follows a closing quote"),
        (b"a,b\n1,\xff\n", "is not UTF-8"),
        (b"\xff,b\n1,2\n", "is not UTF-8"),
        (b"a,a\n1,2\n", 'has two columns "a"'),
    ],
)
def test_a_damaged_csv_is_named_with_its_line(tmp_path: Path, text: bytes, fact: str):
    (tmp_path / "a.csv").write_bytes(text)
    said = error_of(CSV("a.csv"), tmp_path)
    assert 'log file "a.csv"' in said
    assert fact in said


def test_json_types_are_inferred_over_all_rows(tmp_path: Path):
    lines = [
        '{"i": 1, "f": 1, "w": 1, "b": true, "t": "2026-01-01T00:00:00Z", "s": "1", "l": [1], "o": {"x": 1}}',
        "",
    ]
    lines += ['{"f": 2.5, "w": "NaN", "big": 99999999999999999999, "n": null, "l": [2.5, null], "e": []}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = raw_schema(JSONLines("a.jsonl"), tmp_path)
    assert found == {
        "i": pa.int64(), "f": pa.float64(), "w": pa.float64(), "b": pa.bool_(),
        "t": pa.timestamp("us", "UTC"),
        "s": pa.string(), "l": pa.list_(pa.float64()), "o": pa.struct([]), "big": pa.string(), "n": pa.null(),
        "e": pa.list_(pa.null()),
    }  # fmt: skip


def test_a_json_column_of_two_kinds_is_named_unless_its_type_is_declared(tmp_path: Path):
    (tmp_path / "1.jsonl").write_text('{"card_id": "a", "ts": "2026-01-01", "x": 1}\n')
    (tmp_path / "2.jsonl").write_text('{"card_id": "b", "ts": "2026-01-01", "x": "one"}\n')
    said = error_of(JSONLines("*.jsonl"), tmp_path)
    assert 'column "x" holds both number and text in log file "1.jsonl" and "2.jsonl"' in said
    source = purchases(JSONLines("*.jsonl"), columns={"x": "string"})
    assert [row["x"] for row in versions(source, tmp_path)] == ["1", "one"]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (b"", 'log file "a.jsonl" is empty'),
        (b'{"a": 1}\n{"a": 2, "b', "line 2: no JSON object"),
        (b'{"a": 1}\n\n[1]\n', "line 3: no JSON object"),
        (b'{"a": NaN}\n', "line 1: no JSON object"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", "line 1: no JSON object"),
    ],
)
def test_damaged_json_lines_are_named_with_their_line(tmp_path: Path, text: bytes, fact: str):
    (tmp_path / "a.jsonl").write_bytes(text)
    assert fact in error_of(JSONLines("a.jsonl"), tmp_path, ["a"])


def test_a_duckdb_table_and_a_view_are_read(tmp_path: Path):
    with duckdb.connect(str(tmp_path / "a.duckdb")) as con:
        con.execute("CREATE SCHEMA sales")
        con.execute(
            "CREATE TABLE sales.events AS SELECT 'c' || i::VARCHAR AS card_id, "
            "TIMESTAMP '2026-01-01' + i * INTERVAL 1 SECOND AS ts, uuid() AS u, "
            "(i * 1.5)::DECIMAL(10, 2) AS d, i::HUGEINT AS h, ['x'] AS l FROM range(3) t(i)"
        )
        con.execute("CREATE VIEW v AS SELECT * FROM sales.events")
    for table in (("sales", "events"), "v", "events"):
        read = versions(
            purchases(DuckDBTable("a.duckdb", table), columns={"u": "uuid", "d": "decimal(10, 2)"}), tmp_path
        )
        assert [row["card_id"] for row in read] == ["c0", "c1", "c2"]
        assert all(len(str(row["u"])) == 36 for row in read)


def test_a_duckdb_file_without_the_table_or_that_is_none_is_named(tmp_path: Path):
    with duckdb.connect(str(tmp_path / "a.duckdb")) as con:
        con.execute("CREATE TABLE events (x INT)")
    said = error_of(DuckDBTable("a.duckdb", "event"), tmp_path)
    assert 'log file "a.duckdb" has no table "event"' in said
    assert 'did you mean "events"?' in said
    (tmp_path / "b.duckdb").write_bytes(b"no database" * 1000)
    assert 'log file "b.duckdb" can\'t be read as a DuckDB file' in error_of(
        DuckDBTable("b.duckdb", "x"), tmp_path
    )


def test_declared_columns_are_checked_against_the_log(tmp_path: Path):
    write(
        tmp_path / "a.parquet",
        card_id=["c"], ts=pa.array([0], pa.timestamp("us")), at=[5], amount=[1.5], odd=[{"x": 1}],
        none=pa.nulls(1),
    )  # fmt: skip
    log = Parquet("a.parquet")

    def found(**more: object) -> dict[str, str]:
        return {
            name: str(dtype)
            for name, dtype in source_columns(purchases(log, **more), card.keys, tmp_path).items()
        }

    assert found() == {"card_id": "string", "ts": "timestamp", "at": "int64", "amount": "float64"}
    assert found(columns=["amount"]) == {"amount": "float64", "ts": "timestamp", "card_id": "string"}
    assert found(columns={"amount": "decimal(9, 2)"})["amount"] == "decimal(9, 2)"
    assert found(columns={"none": "string"})["none"] == "string"
    assert found(available_at="at", time_unit="s", columns=["amount"])["at"] == "timestamp"
    for more, fact in (
        ({"columns": ["amuont"]}, 'did you mean "amount"?'),
        ({"id": "nr"}, 'no column "nr" in its log (id)'),
        ({"available_at": "at"}, "integers of no declared unit"),
        ({"columns": ["odd"]}, "no type holds what the log has"),
        ({"columns": ["none"]}, "it is null in every row"),
        ({"columns": {"amount": "bool"}}, "the log has float64, which can't become bool"),
        ({"columns": {"ts": "string"}}, "declared string, but it is a time"),
        ({"deleted": "amount"}, "deleted is a boolean"),
    ):
        with pytest.raises(DefinitionError) as raised:
            found(**more)
        assert fact in str(raised.value)
        assert raised.value.hint
    with pytest.raises(DefinitionError, match=r'no column "user_id" in its log \(entity key\)'):
        source_columns(purchases(log), ["user_id"], tmp_path)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Parquet(""), lambda: Parquet([]), lambda: Parquet(["a", 1]),
        lambda: Parquet("a", hive_partitioning="yes"),
        lambda: CSV("a", delimiter=",,"), lambda: CSV("a", delimiter='"'), lambda: CSV("a", header=False),
        lambda: CSV("a", columns=["x"]), lambda: CSV("a", header=False, columns=["x", "x"]),
        lambda: CSV("a", null_values=[1]), lambda: DuckDBTable("a", ""),
        lambda: DuckDBTable("a", ("a", "b", "c")),
        lambda: JSONLines("a\0b"),
    ],
)  # fmt: skip
def test_a_log_declared_wrongly_is_refused_with_a_hint(declare):
    with pytest.raises(DefinitionError) as raised:
        declare()
    assert raised.value.hint


def test_a_log_s_path_is_a_tuple():
    assert Parquet("a").path == ("a",) == JSONLines(["a"]).path
    assert Parquet(["a", "b"]) == Parquet(("a", "b"))
    assert hash(CSV("a")) == hash(CSV(["a"]))
