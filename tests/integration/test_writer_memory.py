"""What a writing process keeps in memory changes nothing but its speed: every report and every stored row is
what a writer without memory makes, whoever else writes between.

Times are days after 2026-01-01.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.store import SEGMENT_LEVEL, SegmentRow, Store, StoredRow
from featurestore.store.commit import Commit
from featurestore.store.delivery import Layout
from featurestore.store.ingest import ingest
from featurestore.store.payload import encode_versions, reader
from featurestore.store.seen import Seen, seen_by
from featurestore.store.snapshot import Snapshot
from tests.integration.backfill_project import BEGIN_US, DAY_US, Row, answers, project, pushed, write
from tests.parity.rounds import run_until

CARDS = 4
TIMELINE = 1
# Nothing is kept, next to nothing, a few entities, everything.
MEMORIES = (300, 1_500, 1 << 20)
Version = tuple[int, int, int, int]  # card, id, content, when it was known

VERSIONS = st.lists(
    st.tuples(st.integers(0, CARDS - 1), st.integers(0, 6), st.integers(0, 2), st.integers(0, 3)),
    min_size=1,
    max_size=8,
)
WRITERS = st.integers(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), WRITERS, VERSIONS),
        st.tuples(st.just("push"), WRITERS, VERSIONS),
        st.tuples(st.just("meanwhile"), WRITERS, VERSIONS, VERSIONS),
        st.tuples(st.just("failed"), WRITERS, VERSIONS),
        st.tuples(st.just("fold"), st.integers(0, CARDS - 1)),
        st.tuples(st.just("remove"), st.integers(0, CARDS - 1)),
        st.tuples(st.just("backfill"), WRITERS, VERSIONS),
        st.tuples(st.just("forget"), WRITERS, st.integers(0, CARDS - 1)),
        st.tuples(st.just("restart"), WRITERS),
    ),
    min_size=4,
    max_size=14,
)


def rows(versions: Sequence[Version]) -> list[Row]:
    return [
        {
            "transaction_id": f"t{key}", "card_id": f"c{card}", "ts": BEGIN_US + (key * 3 + content) * DAY_US,
            "amount": float(content), "recorded_at": BEGIN_US + (30 + known) * DAY_US, "gone": False,
        }
        for card, key, content, known in versions
    ]  # fmt: skip


def push(store: FeatureStore, versions: Sequence[Version]) -> dict[str, object]:
    given = [pushed(one) for one in rows(versions)]
    return ingest(store.store, store.root, "transactions", given, atomic=False, now_us=1).to_dict()


def stored(store: FeatureStore) -> list[StoredRow]:
    """Every row of the timelines."""
    with store.store.snapshot() as snapshot:
        return sorted(snapshot.newer(TIMELINE, snapshot.entity_keys(TIMELINE, limit=1_000), after=-1))


def fold(store: FeatureStore, card: int, *, remove: bool = False) -> None:
    """Put one row in the place of all rows of a card, as compaction does; or ``remove`` them, as nothing does
    that adds no row."""
    with store.store.snapshot() as snapshot:
        (timeline,) = snapshot.timeline_versions()
        keys = snapshot.entity_keys(TIMELINE, limit=1_000)
        found = [one for one in snapshot.stored_rows(TIMELINE, keys) if b"c%d" % card in one.entity_key]
    if not found:
        return
    payloads = [one.payload for one in sorted(found)]
    table, _ = reader(Layout.of(timeline).stored).read(payloads)
    start = min(one.start for one in found)
    kind = "remove" if remove else "compact"
    with store.store.commit(kind, now_us=1, detail="transactions") as commit:
        for one in found:
            assert commit.rewrite(TIMELINE, one, None)
        if not remove:
            key, made = found[0].entity_key, encode_versions(table)
            commit.append(TIMELINE, [SegmentRow(key, SEGMENT_LEVEL, start, table.num_rows, made)])


@contextmanager
def just_before_its_commit(store: Store, act: Callable[[], object]) -> Iterator[None]:
    """``act`` when the next commit of ``store`` is prepared and has not begun."""
    attempts = store.attempts

    def then(*args: str, **named: int) -> object:
        store.attempts = attempts  # type: ignore[method-assign]
        act()
        return attempts(*args, **named)  # type: ignore[arg-type]

    store.attempts = then  # type: ignore[method-assign, assignment]
    yield
    store.attempts = attempts  # type: ignore[method-assign]


def fail(*_: object, **__: object) -> None:
    raise ZeroDivisionError


class Writers:
    """A project with writers that do not know of one another, as processes wouldn't."""

    def __init__(self, root: Path, memories: Sequence[int], opened: ExitStack, url: str = "") -> None:
        self.root, self._memories, self._opened = project(root), memories, opened
        if url:
            (root / "featurestore.toml").write_text(f'[store]\nurl = "{url}"\n')
        write(root, "0.parquet", rows([(0, 6, 0, 0)]))
        with FeatureStore(root) as store:
            store.apply()
            store.backfill()
        self.of = [self._new(memory) for memory in memories]
        self._files = 0

    def _new(self, memory: int) -> FeatureStore:
        made = self._opened.enter_context(FeatureStore(self.root))
        made.store.writer_memory = memory
        return made

    def step(self, what: str, *given: object) -> object:
        if what in ("fold", "remove"):
            return fold(self.of[0], given[0], remove=what == "remove")  # type: ignore[arg-type]
        number = int(given[0]) % len(self.of)  # type: ignore[call-overload]
        writer = self.of[number]
        if what == "restart":
            writer.close()
            self.of[number] = self._new(self._memories[number])
            return None
        if what == "forget":
            return dict(writer.forget({"card_id": f"c{given[1]}"}).erased)
        versions: Sequence[Version] = given[1]  # type: ignore[assignment]
        if what == "backfill":
            self._files += 1
            write(self.root, f"{self._files}.parquet", rows(versions))
            return writer.backfill().to_dict()
        if what == "failed":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Commit, "count", fail)
                with pytest.raises(ZeroDivisionError):
                    push(writer, versions)
            return None
        if what == "meanwhile":
            told = []
            other = self.of[(number + 1) % len(self.of)]
            if other is writer:
                told.append(push(other, given[2]))  # type: ignore[arg-type]
                return [*told, push(writer, versions)]
            with just_before_its_commit(
                writer.store,
                lambda: told.append(push(other, given[2])),  # type: ignore[arg-type]
            ):
                last = push(writer, versions)
            return [*told, last]
        return push(writer, versions)


def test_writers_with_memory_do_what_one_without_does():
    met: Counter[str] = Counter()

    def check(data: st.DataObject) -> None:
        memories = data.draw(st.lists(st.sampled_from(MEMORIES), min_size=2, max_size=2))
        steps = data.draw(STEPS)
        with TemporaryDirectory() as directory, ExitStack() as opened:
            writers = Writers(Path(directory) / "several", memories, opened)
            alone = Writers(Path(directory) / "alone", [0], opened)
            for step in steps:
                told = writers.step(*step)
                assert told == alone.step(*step), step
                met[step[0]] += 1
                for one in told if isinstance(told, list) else [told]:
                    if isinstance(one, dict) and step[0] in ("push", "meanwhile"):
                        met.update({kind: one[kind] for kind in ("corrected", "duplicate", "forgotten")})
            assert stored(writers.of[0]) == stored(alone.of[0])
            assert answers(writers.of[1], CARDS) == answers(alone.of[0], CARDS)

    wanted = (
        "push",
        "meanwhile",
        "failed",
        "fold",
        "backfill",
        "forget",
        "restart",
        "corrected",
        "duplicate",
    )
    run_until(check, 12, lambda: min(met[kind] for kind in wanted) >= 5)
    assert min(met[kind] for kind in wanted) >= 5, met


def test_writers_with_memory_on_postgresql_do_what_one_without_does(tmp_path: Path, postgres_url: str):
    draw = random.Random(8)

    def versions() -> list[Version]:
        return [
            (draw.randrange(CARDS), draw.randrange(7), draw.randrange(3), draw.randrange(4))
            for _ in range(draw.randint(1, 8))
        ]

    kinds = ("push", "push", "meanwhile", "meanwhile", "failed", "fold", "remove", "backfill", "restart")
    with ExitStack() as opened:
        several = Writers(tmp_path / "several", [1_500, 1 << 20], opened, postgres_url)
        alone = Writers(tmp_path / "alone", [0], opened)
        for number in range(60):
            what = "forget" if number == 40 else draw.choice(kinds)
            first = draw.randrange(CARDS if what in ("fold", "remove") else 2)
            step = (what, first, *([2] if what == "forget" else [versions(), versions()]))
            assert several.step(*step) == alone.step(*step), step
        assert stored(several.of[0]) == stored(alone.of[0])
        assert answers(several.of[1], CARDS) == answers(alone.of[0], CARDS)


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    with ExitStack() as opened:
        yield Writers(tmp_path, [1 << 20, 1 << 20], opened)


def seen(store: FeatureStore) -> Seen:
    found = seen_by(store.store)
    assert found is not None
    return found


def test_what_a_writer_wrote_or_read_is_not_read_again(writers: Writers, monkeypatch: pytest.MonkeyPatch):
    mine, other = writers.of
    push(other, [(0, 1, 0, 0)])
    push(mine, [(0, 2, 0, 0), (1, 1, 0, 0)])
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "read", fail)
        patch.setattr(Snapshot, "newer", fail)
        assert push(mine, [(0, 1, 0, 0), (0, 2, 1, 0), (1, 1, 0, 0)])["duplicate"] == 2
    push(other, [(0, 2, 2, 0)])
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "read", fail)
        # Somebody else has written to this card: what is new is read, and no more.
        assert push(mine, [(0, 2, 2, 0)])["duplicate"] == 1


def test_what_is_kept_stays_within_its_bounds(tmp_path: Path):
    size = 40_000
    with ExitStack() as opened:
        (writer,) = Writers(tmp_path, [size], opened).of
        draw = random.Random(4)
        for _ in range(60):
            push(writer, [(draw.randrange(60), draw.randrange(10_000), 0, 0) for _ in range(40)])
            tables = seen(writer)._tables.values()
            assert sum(table.size for table in tables) <= size
        assert sum(table.versions for table in tables) > 100


def test_each_version_is_kept_once_however_others_write_between(writers: Writers):
    draw, mine = random.Random(5), writers.of[0]
    for _ in range(40):
        writers.step("meanwhile", draw.randrange(2), *(
            [(draw.randrange(CARDS), draw.randrange(300), 0, 0) for _ in range(6)] for _ in range(2)
        ))  # fmt: skip
        if draw.random() < 0.2:
            fold(mine, draw.randrange(CARDS))
    push(mine, [(card, 0, 0, 0) for card in range(CARDS)])
    table = seen(mine)._tables[TIMELINE]
    held = set(table._numbers.values())
    owned = np.isin(table._owner[: table.versions], list(held))
    assert len(held) == CARDS and int(owned.sum()) == sum(one.versions for one in stored(mine))


def test_threads_that_push_at_once_count_every_version_once(tmp_path: Path):
    with ExitStack() as opened:
        writers = Writers(tmp_path, [1_500, 1 << 20], opened)
        draw = random.Random(6)
        pushes = [
            [(draw.randrange(CARDS), draw.randrange(40), draw.randrange(2), 0) for _ in range(5)]
            for _ in range(240)
        ]
        reports: list[dict[str, object]] = []

        def work(number: int) -> None:
            reports.extend([push(writers.of[number % 2], some) for some in pushes[number::4]])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        # The first one was there before.
        versions = {(0, 6, 0), *(one[:3] for some in pushes for one in some)}
        identities = {one[:2] for one in versions}
        total = {kind: sum(int(one[kind]) for one in reports) for kind in ("accepted", "corrected")}  # type: ignore[call-overload]
        assert len(reports) == len(pushes)
        assert total == {"accepted": len(identities) - 1, "corrected": len(versions) - len(identities)}
        assert sum(one.versions for one in stored(writers.of[0])) == len(versions)
