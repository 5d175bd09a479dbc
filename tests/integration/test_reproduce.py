"""A manifest makes its training set again, to the byte, or says all that is missing or has changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.batch import manifest as manifests
from featurestore.errors import ManifestError
from tests.integration.reproduce_project import CASES, Project, changes, events, to_json_lines


@pytest.mark.parametrize("known_at", [None, "as_of", "an instant"])
@pytest.mark.parametrize("case", CASES)
def test_a_training_set_is_made_again_to_the_byte_after_the_log_grew_by_half(
    tmp_path: Path, case: str, known_at: str | None
):
    project = Project(tmp_path, CASES[case])
    written = project.make(CASES[case].instant if known_at == "an instant" else known_at)
    values = pq.read_table(tmp_path / "train.parquet")["v__amount_sum"].to_pylist()
    assert len({value for value in values if value is not None}) >= 2
    project.grow()
    assert project.again() == written


@pytest.mark.parametrize("case", ["events in Parquet", "events in JSON lines", "a table in DuckDB"])
def test_what_grew_would_have_changed_the_values(tmp_path: Path, case: str):
    project = Project(tmp_path, CASES[case])
    project.make()
    project.grow()
    (tmp_path / "features.py").write_text(CASES[case].declared)
    before = pq.read_table(tmp_path / "train.parquet")
    project.make()
    assert not pq.read_table(tmp_path / "train.parquet").equals(before)


def test_from_python_the_manifest_of_a_training_set_will_do(tmp_path: Path):
    project = Project(tmp_path, CASES["events in CSV"])
    with FeatureStore(tmp_path) as store:
        made = store.training_set("spine.parquet", "v")
        project.grow()
        again = store.reproduce(made.manifest)
    assert again.to_arrow().equals(made.to_arrow())
    assert again.manifest == made.manifest


# Spines


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, CASES["events in Parquet"])


def refused(project: Project, spine: object = None) -> ManifestError:
    with FeatureStore(project.root) as store, pytest.raises(ManifestError) as error:
        store.reproduce(project.root / "train.manifest.json", spine=spine)
    return error.value


def test_a_spine_in_memory_is_handed_in_again(project: Project):
    written = project.make(spine=project.spine)
    error = refused(project)
    assert [(name, fact) for name, fact, _ in error.differences] == [
        ("the spine", "it was a table in memory, of 90 rows")
    ]
    assert "--spine FILE, or spine=" in str(error)
    assert project.again(project.spine) == written
    assert project.again("spine.parquet") == written  # the same content, in a file


def test_a_spine_in_memory_is_the_same_in_any_number_of_pieces(project: Project):
    written = project.make(spine=project.spine)
    pieces = [project.spine.slice(begin, 13) for begin in range(0, 90, 13)]
    assert project.again(pa.concat_tables(pieces)) == written


def test_a_frame_is_handed_in_again_from_the_file_that_it_was_written_to(project: Project):
    frame = project.spine.to_pandas()
    written = project.make(spine=frame)
    frame.to_parquet(project.root / "frame.parquet")
    assert project.again("frame.parquet") == written


@pytest.mark.parametrize(
    ("other", "fact"),
    [
        (lambda spine: spine.slice(1), "it is another one: recorded 90 rows, found 89"),
        (
            lambda spine: spine.append_column("label", pa.array([1] * 90)),
            'it is another one, column "label": recorded none, found int64',
        ),
        (lambda spine: spine.take([*range(89, -1, -1)]), "it is another one: recorded content sha256 "),
        (lambda spine: spine.rename_columns(["card", "t"]), 'no time column "ts"'),
    ],
)  # fmt: skip
def test_another_spine_is_refused(project: Project, other: Any, fact: str):
    project.make(spine=project.spine)
    error = refused(project, other(project.spine))
    assert error.differences[0][0] == "the spine" and error.differences[0][1].startswith(fact)


def test_a_spine_of_text_that_has_grown_is_read_as_far_as_it_was(project: Project):
    rows = zip(*project.spine.to_pydict().values(), strict=True)
    lines = ["card,ts", *(f"{card},{when}" for card, when in rows)]
    (project.root / "spine.csv").write_text("\n".join(lines) + "\n")
    written = project.make(spine="spine.csv")
    with (project.root / "spine.csv").open("a") as file:
        file.write("c1,2026-01-01T09:00:00Z\n")
    assert project.again() == written


def test_naive_times_are_read_in_the_recorded_zone(project: Project):
    naive = pa.table({"card": ["c1", "c2"], "when": ["2026-01-01T06:00:00", "2026-01-01T07:00:00"]})
    pq.write_table(naive, project.root / "naive.parquet")
    with FeatureStore(project.root) as store:
        made = store.training_set("naive.parquet", "v", time="when", timezone="Europe/Berlin")
        made.write_parquet(project.root / "train.parquet")
    assert project.again() == project.bytes("train")


# What is missing or has changed


def test_a_file_that_is_gone_is_named(project: Project):
    project.make()
    recorded = project.root / "log" / "0.parquet"
    size = recorded.stat().st_size
    recorded.unlink()
    ((name, fact, way_out),) = refused(project).differences
    assert name == 'file "log/0.parquet" of source "source"'
    assert fact.startswith(f"it is missing; recorded {size:,} bytes, sha256 ")
    assert way_out == "put it back where it was"


def test_a_file_that_has_changed_is_named_with_both_sizes_and_hashes(project: Project):
    project.make()
    path = project.root / "log" / "0.parquet"
    before = path.stat().st_size
    pq.write_table(pa.Table.from_pylist(events(0, 31)), path)
    ((_, fact, _),) = refused(project).differences
    found = manifest(project)["sources"]["source"]["log"]["files"][0]["sha256"]
    assert fact.startswith(f"it has changed: recorded {before:,} bytes, sha256 {found}; found ")
    assert f"found {path.stat().st_size:,} bytes, sha256 " in fact


def test_a_spine_that_has_changed_is_named(project: Project):
    project.make()
    pq.write_table(project.spine.slice(1), project.root / "spine.parquet")
    ((name, fact, _),) = refused(project).differences
    assert name == 'file "spine.parquet" of the spine' and fact.startswith("it has changed: ")


@pytest.mark.parametrize(
    ("edit", "fact"),
    [
        (lambda text: text[:-60], "it has changed: recorded "),
        (lambda text: text.replace("1.25", "1.35", 1), "it has changed: recorded "),
        (lambda text: text.replace("1.25", "1.35", 1) + text[-80:], "its first "),
    ],
    ids=["cut off", "edited", "edited, and grown"],
)  # fmt: skip
def test_text_that_changed_where_it_was_read_is_named(tmp_path: Path, edit: Any, fact: str):
    project = Project(tmp_path, CASES["events in JSON lines"])
    project.make()
    path = tmp_path / "log.jsonl"
    path.write_text(edit(path.read_text()))
    ((name, said, _),) = refused(project).differences
    assert name == 'file "log.jsonl" of source "source"' and said.startswith(fact)


@pytest.mark.parametrize(
    ("statement", "fact"),
    [
        ("UPDATE t SET amount = 7 WHERE id = 'e3'", "its first 32 rows have changed: recorded sha256 "),
        ("DELETE FROM t WHERE id = 'e3'", "it has changed: recorded 32 rows, found 31"),
        ("ALTER TABLE t DROP COLUMN amount", 'it has no column "amount" any more'),
        ("ALTER TABLE t RENAME TO u", 'log file "log.duckdb" has no table "t"; recorded 32 rows, sha256 '),
    ],
)
def test_a_table_that_has_changed_is_named(tmp_path: Path, statement: str, fact: str):
    project = Project(tmp_path, CASES["events in DuckDB"])
    project.make()
    with duckdb.connect(str(tmp_path / "log.duckdb")) as connection:
        connection.execute(statement)
    assert refused(project).differences[0][1].startswith(fact)


def test_other_tables_and_columns_of_a_duckdb_file_mean_nothing(tmp_path: Path):
    project = Project(tmp_path, CASES["events in DuckDB"])
    written = project.make()
    with duckdb.connect(str(tmp_path / "log.duckdb")) as connection:
        connection.execute("CREATE TABLE other AS SELECT 1 AS one")
        connection.execute("ALTER TABLE t ADD COLUMN later INTEGER")
    assert project.again() == written


def test_pushed_rows_of_a_store_that_is_gone_are_named(project: Project):
    project.make()
    (project.root / ".featurestore" / "store.db").unlink()
    ((name, fact, _),) = refused(project).differences
    assert name == 'pushed rows of source "source"'
    assert fact == "there is no store; recorded 8 rows up to number 8"


def test_pushed_rows_that_another_store_lacks_or_has_otherwise_are_named(project: Project):
    project.make()
    store = project.root / ".featurestore"
    for pushed, said in (
        (events(32, 36), "recorded 8 rows up to number 8, found 4"),
        (events(33, 41), "they have changed: recorded 8 rows up to number 8, sha256 "),
    ):
        for path in store.iterdir():
            path.unlink()
        with FeatureStore(project.root) as other:
            other.apply()
            other.ingest("source", pushed)
        ((_, fact, _),) = refused(project).differences
        assert fact.startswith(said)


def test_all_that_is_missing_or_changed_is_said_at_once(project: Project):
    project.make()
    (project.root / "log" / "0.parquet").unlink()
    (project.root / "spine.parquet").write_bytes(b"")
    (project.root / ".featurestore" / "store.db").unlink()
    error = refused(project)
    assert [name for name, _, _ in error.differences] == [
        'file "log/0.parquet" of source "source"',
        'pushed rows of source "source"',
        'file "spine.parquet" of the spine',
    ]
    assert str(error).count("way out: ") == 3 and "3 things are missing or changed" in str(error)


def test_a_training_set_without_pushes_needs_no_store(tmp_path: Path):
    project = Project(tmp_path, CASES["a table in snapshots"])
    written = project.make()
    (tmp_path / ".featurestore" / "store.db").unlink()
    assert project.again() == written


# Packages and results


def manifest(project: Project) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((project.root / "train.manifest.json").read_text())
    return made


def edit(project: Project, **changed: object) -> None:
    whole = {**manifest(project), **changed}
    (project.root / "train.manifest.json").write_text(json.dumps(whole))


def test_other_packages_are_a_warning_where_the_values_are_the_same(project: Project):
    project.make()
    edit(project, packages={**manifest(project)["packages"], "numpy": "1.0"})
    with FeatureStore(project.root) as store:
        made = store.reproduce(project.root / "train.manifest.json")
    (warning,) = made.warnings
    assert f"numpy {manifests.packages()['numpy']}, recorded 1.0" in warning
    assert f"warning: {warning}" in made.text()
    assert made.manifest["packages"] == manifests.packages()


def test_values_that_come_out_otherwise_are_refused_and_the_packages_that_differ_are_named(project: Project):
    project.make()
    content = {**manifest(project)["content"], "sha256": "0" * 64}
    edit(project, content=content, packages={**manifest(project)["packages"], "numpy": "1.0"})
    ((name, fact, way_out),) = refused(project).differences
    assert name == "the values" and f"recorded content sha256 {'0' * 64}, made " in fact
    assert way_out.startswith("packages differ, which may be why: numpy ")


def test_a_manifest_whose_counts_were_edited_is_refused(project: Project):
    project.make()
    edit(project, counts={**manifest(project)["counts"], "rows_without_key": 0})
    ((name, _, way_out),) = refused(project).differences
    assert name == '"counts" of the manifest' and "was it edited?" in way_out


def view(whole: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = whole["definitions"]["v"]
    return made


# Manifests that are none


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", 'manifest "train.manifest.json" is no JSON: '),
        ("PAR1", 'manifest "train.manifest.json" is no JSON: '),
        (b"\xff\xfe", 'manifest "train.manifest.json" is no text'),
        ("[1]", 'manifest "train.manifest.json" is no manifest of a training set'),
        ('{"a": 1}', 'manifest "train.manifest.json" is no manifest of a training set'),
        (
            '{"format": 1, "content": {}}',
            'manifest "train.manifest.json" is of format 1, which lacks the definitions themselves, '
            "the features' order and the spine: ",
        ),
        ('{"format": 3, "content": {}}', 'manifest "train.manifest.json" is of format 3; this release '),
        ('{"format": 2, "content": {}}', 'manifest "train.manifest.json" is damaged: features: field req'),
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes, fact: str
):
    monkeypatch.chdir(tmp_path)
    Path("train.manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestError) as error:
        FeatureStore(".").reproduce("train.manifest.json")
    assert error.value.fact.startswith(fact) and error.value.hint


def test_a_manifest_that_is_cut_off_or_absent_is_refused(project: Project):
    project.make()
    path = project.root / "train.manifest.json"
    path.write_text(path.read_text()[:-200])
    assert "is no JSON: " in refused(project).fact and "is it cut off?" in refused(project).fact
    path.unlink()
    assert refused(project).fact.startswith("there is no manifest ")


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda of: view(of).update(plan={"$": "Newer"}), 'the definition of view "v" has a part'),
        (lambda of: view(of).update(plan={"$": "DType"}), 'the definition of view "v" can\'t be read'),
        (lambda of: view(of).update(plan={}), 'the definition of view "v" can\'t be read'),
        (lambda of: of["features"].append("v:nothing"), 'feature view "v" has no feature "nothing"'),
        (lambda of: of["sources"].pop("source"), 'it says nothing of source "source"'),
        (lambda of: of.update(known_at="noon"), 'known_at "noon" is not an instant'),
        (lambda of: of["spine"]["files"][0].pop("size"), "spine.files.0.size: field required"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_says_where(project: Project, change: Any, fact: str):
    project.make()
    whole = manifest(project)
    change(whole)
    (project.root / "train.manifest.json").write_text(json.dumps(whole))
    assert fact in refused(project).fact


def test_a_definition_that_means_something_else_is_named(project: Project):
    project.make()
    text = (project.root / "train.manifest.json").read_text()
    hours = '"window_us":7200000000'
    assert hours in text
    (project.root / "train.manifest.json").write_text(text.replace(hours, '"window_us":7200000001'))
    assert refused(project).differences[0][0] == 'definition of view "v"'


def test_a_manifest_names_no_path_of_the_machine_and_no_time_of_day(tmp_path: Path):
    texts = []
    for name in ("one", "two"):
        project = Project(tmp_path / name, CASES["events in Parquet"])
        project.make()
        texts.append((project.root / "train.manifest.json").read_text())
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]


# While the log is being written


def test_text_that_grows_while_it_is_read_is_read_as_far_as_it_was_listed(tmp_path: Path):
    project = Project(tmp_path, CASES["a table in JSON lines"])
    with FeatureStore(tmp_path) as store:
        from featurestore.batch.logs import Logs

        logs = Logs(tmp_path, None)
        source = store.plans.sources["source"]
        (file,) = logs.files(source)
        to_json_lines(tmp_path, changes(40, 50))
        assert logs.files(source) == (file,)
    assert file.size < (tmp_path / "log.jsonl").stat().st_size
    assert project.written == 32


# The command


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import sys; from featurestore.cli import main; sys.exit(main())", *arguments],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_makes_it_again_or_writes_nothing(project: Project):
    written = project.make("as_of")
    project.grow()
    asked = ("training-set", "--from", "train.manifest.json", "-o", "again.parquet")
    done = run(project.root, *asked)
    assert (done.returncode, done.stderr) == (0, "wrote again.parquet and again.manifest.json\n"), done
    assert done.stdout.startswith("90 rows, ")
    assert project.bytes("again") == written
    for path in project.root.glob("again.*"):
        path.unlink()
    (project.root / "log" / "0.parquet").unlink()
    failed = run(project.root, *asked)
    assert failed.returncode == 1
    first, second, *_ = failed.stderr.splitlines()
    assert first == 'error: manifest "train.manifest.json": 1 thing is missing or changed'
    assert second.startswith('  file "log/0.parquet" of source "source": it is missing; ')
    assert "hint: nothing was written" in failed.stderr
    assert not list(project.root.glob("again.*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--from", "m.json", "spine.parquet"),
        ("--from", "m.json", "-f", "v"),
        ("--from", "m.json", "--known-at", "as_of"),
        ("--from", "m.json", "--time", "ts"),
        ("--spine", "s.parquet", "spine.parquet", "-f", "v"),
        ("-f", "v"),
        ("spine.parquet",),
    ],
)
def test_a_command_that_asks_for_both_or_neither_is_a_usage_error(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
):
    from featurestore.cli.application import run as command

    monkeypatch.chdir(project.root)
    assert command(["training-set", *arguments, "-o", "o.parquet"]) == 2
    assert "hint: " in capsys.readouterr().err
