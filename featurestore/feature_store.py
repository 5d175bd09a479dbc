"""``FeatureStore``: a project's directory as one object. It delegates: each method names the part that does
the work.

Times: ``as_of`` is the instant a question is asked about, ``known_at`` the horizon of knowledge. Both are ISO
8601 text with an offset or aware datetimes. Absent ``as_of`` is now; absent ``known_at`` is everything known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore import clock
from featurestore.dsl.source import EventSource
from featurestore.errors import RequestError, SettingsError, UnknownNameError, suggestion
from featurestore.instants import horizon, instant
from featurestore.plan.compile import resolve
from featurestore.project import (
    Declarations,
    Plans,
    collect,
    compile_declarations,
    load_module,
    no_declarations,
)
from featurestore.reports import MigrationReport, PlanReport
from featurestore.settings import Settings, load

if TYPE_CHECKING:
    from featurestore.batch.backfill import BackfillReport
    from featurestore.batch.compare import KnowledgeComparison
    from featurestore.batch.training_set import TrainingSet
    from featurestore.batch.verification import Verification
    from featurestore.serving.explain_value import ExplainedValue
    from featurestore.serving.lookup import Lookup
    from featurestore.serving.vectors import FeatureVectors
    from featurestore.store import Snapshot, Store
    from featurestore.store.compaction import CompactionReport
    from featurestore.store.forget import ForgetReport
    from featurestore.store.ingest import IngestReport
    from featurestore.store.registry import Desired

ProgressCallback = Callable[[int, int, str], None]


class FeatureStore:
    """The project in ``directory``: ``featurestore.toml`` (optional), ``features.py``, and the store they
    name."""

    def __init__(self, directory: str | Path = ".") -> None:
        self.root = Path(directory).resolve()
        if not self.root.is_dir():
            raise SettingsError(f"there is no directory {directory}", hint="name the project's directory")
        self.settings: Settings = load(self.root)

    # Declarations

    @cached_property
    def declarations(self) -> Declarations:
        """What the project declares."""
        return collect(vars(load_module(self.root / self.settings.features)))

    @cached_property
    def plans(self) -> Plans:
        """What the declarations compile to, with the columns that the logs have now."""
        return compile_declarations(self.declarations, self.root)

    @property
    def _desired(self) -> Desired:
        from featurestore.store.registry import Desired

        declared, plans = self.declarations, self.plans
        return Desired(
            declared.entities,
            {name: (source, plans.sources[name]) for name, source in declared.sources.items()},
            {name: (view, plans.views[name]) for name, view in declared.views.items()},
            {name: (service, plans.services[name]) for name, service in declared.services.items()},
            plans.rows,
        )

    def plan(self) -> PlanReport:
        """What ``apply`` would change."""
        from featurestore.store.registry import Registry, changes, read_registry

        if self._store_exists():
            with self.store.snapshot() as snapshot:
                registry = read_registry(snapshot)
        else:
            registry = Registry(0, {}, {}, (), {}, {}, {})
        return PlanReport(changes(registry, self._desired), self._warnings(), applied=False)

    def apply(self) -> PlanReport:
        """Record the declarations in the store, making or migrating it where needed."""
        from featurestore.store.forget import finish_forgetting
        from featurestore.store.registry import apply, changes, read_registry

        desired = self._desired
        store = self._open(migrate=True)
        with store.commit("apply", now_us=clock.now()) as commit:
            with store.snapshot() as snapshot:
                registry = read_registry(snapshot)
            found = changes(registry, desired)
            apply(commit, registry, desired)
        if registry.forgotten.keys:
            finish_forgetting(store, root=self.root, requests=self._requests, now=clock.now)
        return PlanReport(found, self._warnings(), applied=True)

    def _warnings(self) -> list[str]:
        return [
            f'source "{source.name}" has id but neither version nor available_at: '
            "its corrections are ordered by content"
            for source in self.declarations.sources.values()
            if isinstance(source, EventSource)
            and source.ids
            and source.version is None
            and source.available_at is None
        ]

    def explain(self, name: str | None = None) -> str:
        """The compiled plan of a view, of one ``view:feature``, or of everything declared."""
        from featurestore.plan.explain import explain

        views = self.plans.views
        if name is None:
            return "\n\n".join(explain(view) for view in views.values())
        features = resolve([name], views)
        return explain(views[name.partition(":")[0]], features)

    # Training sets and backfill

    def training_set(
        self,
        spine: object,
        features: str | Iterable[str],
        time: str = "ts",
        known_at: object = None,
        timezone: str | None = None,
        strict: bool = False,
    ) -> TrainingSet:
        """Every row of ``spine`` (a path, Arrow table, pandas or polars frame) with its features as of its
        ``time``.

        ``features``: a feature service's name, a view's, ``view:feature`` references, or several of these.
        ``strict``: a rejected row of a log, or different changes of a table's row at one position, is a
        RowError.
        """
        from featurestore.batch.facts import Reader
        from featurestore.batch.logs import Logs
        from featurestore.batch.spine import read, texts_of
        from featurestore.batch.training_set import training_set

        chosen = resolve(self._references(features), self.plans.views)
        texts = texts_of(self.plans.views[feature.view].entity for feature in chosen)
        read_spine = read(spine, time=time, timezone=timezone, root=self.root, texts=texts)
        with self._threads() as threads, self._snapshot() as snapshot:
            reader = Reader(Logs(self.root, snapshot))
            return training_set(
                read_spine, chosen, self.plans.views, reader, known_at=horizon(known_at), threads=threads,
                strict=strict,
            )  # fmt: skip

    def compare_knowledge(
        self,
        spine: object,
        features: str | Iterable[str],
        known_at: tuple[object, object],
        time: str = "ts",
        timezone: str | None = None,
        limit: int = 1_000,
    ) -> KnowledgeComparison:
        """Which values of a training set differ between two horizons of knowledge, (before, after), and why.

        Each horizon is an instant, "as_of", or None for everything known now. The logs are read once. All
        that differs is counted; the first ``limit`` values are listed with the facts responsible.
        """
        from featurestore.batch.compare import compare_knowledge
        from featurestore.batch.facts import Reader
        from featurestore.batch.logs import Logs
        from featurestore.batch.spine import read, texts_of

        if not isinstance(known_at, tuple | list) or len(known_at) != 2:
            raise RequestError(
                f"known_at={known_at!r} is not two horizons",
                hint='as known_at=("2026-01-31T00:00:00Z", None)',
            )
        horizons = horizon(known_at[0]), horizon(known_at[1])
        chosen = resolve(self._references(features), self.plans.views)
        texts = texts_of(self.plans.views[feature.view].entity for feature in chosen)
        read_spine = read(spine, time=time, timezone=timezone, root=self.root, texts=texts)
        with self._threads() as threads, self._snapshot() as snapshot:
            reader = Reader(Logs(self.root, snapshot))
            return compare_knowledge(
                read_spine, chosen, self.plans.views, reader, horizons, limit=limit, threads=threads
            )

    def reproduce(self, manifest: str | Path | Mapping[str, Any], spine: object = None) -> TrainingSet:
        """The training set that a manifest is about, made again to the byte; a manifest is a path, or
        ``TrainingSet.manifest``.

        Reads the files, rows and pushes that it names and no others, with its definitions and ``known_at``. A
        spine that was a table in memory is handed in once more. ManifestError lists all that is missing or
        has changed.
        """
        from featurestore.batch.recorded import read_manifest
        from featurestore.batch.reproduce import reproduce

        recorded = read_manifest(manifest)
        with self._threads() as threads, self._snapshot() as snapshot:
            return reproduce(recorded, self.root, snapshot, spine, threads=threads)

    def _references(self, features: str | Iterable[str]) -> list[str]:
        names = [features] if isinstance(features, str) or not isinstance(features, Iterable) else [*features]
        made: list[str] = []
        for name in names:
            if not isinstance(name, str):
                raise RequestError(
                    f"{name!r} is not a feature's name", hint='as features="fraud_model" or ["v:count_5m"]'
                )
            if name in self.plans.services:
                made.extend(self.plans.services[name].features)
            elif ":" in name or name in self.plans.views:
                made.append(name)
            else:
                known = [*self.plans.services, *self.plans.views]
                raise UnknownNameError(
                    f'no feature service or view "{name}"',
                    hint=suggestion(name, known, what="services and views"),
                )
        if not made:
            raise RequestError(
                "no features are named", hint='as features="fraud_model" or ["card_activity:count_5m"]'
            )
        return made

    def backfill(
        self,
        views: Sequence[str] | None = None,
        rebuild: bool = False,
        progress: ProgressCallback | None = None,
        strict: bool = False,
    ) -> BackfillReport:
        """Load the logs' history into the store; goes on where an interrupted run stood, adds only what is
        new.

        ``strict``: a rejected row, or a change in conflict with another one of its row, is a RowError, which
        says what is written all the same.
        """
        from featurestore.batch.backfill import backfill

        with self._threads() as threads:
            return backfill(
                self.store,
                self.root,
                {**self.plans.rows, **self.plans.views},
                views,
                rebuild=rebuild,
                progress=progress,
                now=clock.now,
                threads=threads,
                strict=strict,
            )

    # Serving

    def ingest(self, source: str, rows: object, atomic: bool = False, strict: bool = False) -> IngestReport:
        """Push rows (a path, or a list of dicts) into a source: durable and served when it returns.

        ``atomic``: one bad row refuses all. ``strict``: so does a change in conflict with another one of its
        row.
        """
        from featurestore.store.ingest import ingest

        return ingest(self.store, self.root, source, rows, atomic=atomic, now_us=clock.now(), strict=strict)

    def forget(self, entity: Mapping[str, object], progress: ProgressCallback | None = None) -> ForgetReport:
        """Erase an entity, named by all its key columns, and leave its facts out for ever, whatever a log
        still holds of it.

        Killed or interrupted, it is gone on with by calling it again.
        """
        from featurestore.store.forget import forget

        return forget(
            self.store, entity, root=self.root, requests=self._requests, now=clock.now, progress=progress
        )

    def online_features(
        self,
        features: str | Sequence[str],
        entities: Mapping[str, Sequence[object]],
        as_of: object = None,
        known_at: object = None,
    ) -> FeatureVectors:
        """The features of each entity row at ``as_of``, one instant or one a row.

        OutsideRetentionError for a question before what a view with ``retention`` still answers.
        """
        from featurestore.serving.lookup import outside_retention

        service, references = self._asked(features)
        found = self.lookup.vectors(
            features=references,
            feature_service=service,
            entities=entities,
            as_of=_as_of(as_of),
            known_at=horizon(known_at),
        )
        for vector in found.vectors:
            if vector.outside is not None:
                assert vector.horizon_us is not None
                raise outside_retention(vector.view, vector.horizon_us)
        return found

    def _asked(self, features: str | Sequence[str]) -> tuple[str | None, list[str] | None]:
        if not isinstance(features, str):
            return None, list(features)
        with self.store.snapshot() as snapshot:
            services = self.lookup.registry(snapshot).services
        return (features, None) if features in services else (None, [features])

    def explain_value(
        self, feature: str, entity: Mapping[str, object], as_of: object = None, known_at: object = None
    ) -> ExplainedValue:
        """The facts behind one value: their ids, times and inputs."""
        from featurestore.serving.explain_value import explain_value

        at = _as_of(as_of)
        if not isinstance(at, int):
            raise RequestError("explain_value takes one as_of", hint="ask for the rows one by one")
        return explain_value(self.lookup, self.store, feature, entity, as_of=at, known_at=horizon(known_at))

    @cached_property
    def lookup(self) -> Lookup:
        """Answers requests from the store."""
        from featurestore.serving.lookup import Lookup

        return Lookup(self.store)

    def verify(
        self,
        since: object = None,
        until: object = None,
        sample: int | None = None,
        limit: int = 100,
        progress: ProgressCallback | None = None,
    ) -> Verification:
        """Compute what the server has logged once more, over the facts that the store had then, and compare
        the bits.

        Looked at are answers given in [since, until), of a ``sample`` whole requests with at least so many
        answers. All that is found is counted, the first ``limit`` of each kind are named.
        """
        from featurestore.batch.logged import Chosen
        from featurestore.batch.verify import verify

        chosen = Chosen(
            self._requests,
            None if since is None else instant(since, what="since"),
            None if until is None else instant(until, what="until"),
            sample,
        )
        with self._threads() as threads:
            return verify(self.store, self.root, chosen, limit=limit, progress=progress, threads=threads)

    # The store

    @cached_property
    def store(self) -> Store:
        """The store, which ``apply`` has made."""
        if not self._store_exists():
            declarations = self.root / self.settings.features
            if not declarations.is_file():
                raise no_declarations(declarations)
            raise SettingsError(
                f"there is no store at {self.settings.store.shown} yet", hint='run "featurestore apply"'
            )
        return self._open(migrate=False)

    def versions(self) -> list[dict[str, Any]]:
        """Every version of every view that can be read, and its state."""
        with self.store.snapshot() as snapshot:
            return [
                {
                    "view": one.view,
                    "version": one.version,
                    "state": one.state,
                    "fingerprint": one.fingerprint,
                    "timeline_version": one.timeline_version_id,
                    "created_commit": one.created_commit,
                    "switched_commit": one.switched_commit,
                }
                for one in snapshot.view_versions()
                if one.state != "dropped"
            ]

    def switch_version(self, view: str, version: int | str) -> None:
        """Serve another filled version of a view, from the next request on."""
        from featurestore.store.versions import switch_version

        switch_version(self.store, view, version, now_us=clock.now())

    def drop_version(self, view: str, version: int | str) -> None:
        """Remove a version of a view that is not served, and the timelines that nothing reads any more."""
        from featurestore.store.versions import drop_version

        drop_version(self.store, view, version, now=clock.now)

    def compact(self, full: bool = False, progress: ProgressCallback | None = None) -> CompactionReport:
        """Fold the many small rows that pushes and streams have left, and give space back, beside readers and
        writers; no answer changes.

        ``full``: write the store anew, as small as it can be; requests and writers wait for that part.
        """
        from featurestore.store.compaction import compact

        return compact(self.store, now=clock.now, whole=full, progress=progress)

    def migrate(self) -> MigrationReport:
        """Bring the store's schema to this release."""
        from featurestore.store import Store

        Store.migrate(self._url())
        return MigrationReport(self.settings.store.shown)

    def close(self) -> None:
        """Close the store, where it was opened."""
        if "store" in self.__dict__:
            self.store.close()
            del self.__dict__["store"]
            self.__dict__.pop("lookup", None)

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _requests(self) -> Path:
        return self.root / self.settings.request_log.directory

    def _url(self) -> str | Path:
        # A path in a URL is relative to the project too, wherever the process was started.
        url = self.settings.store.url.removeprefix("sqlite:///")
        return url if "://" in url else self.root / url

    def _store_exists(self) -> bool:
        url = self._url()
        return not isinstance(url, Path) or url.exists()

    def _open(self, *, migrate: bool) -> Store:
        from featurestore.store import Store

        if "store" in self.__dict__ and not migrate:
            return self.store
        self.close()
        memory = self.settings.store.writer_memory_mb << 20
        opened = Store.open(self._url(), migrate=migrate, writer_memory=memory)
        self.__dict__["store"] = opened
        return opened

    @contextmanager
    def _snapshot(self) -> Iterator[Snapshot | None]:
        if not self._store_exists():
            yield None
            return
        with self.store.snapshot() as snapshot:
            yield snapshot

    @contextmanager
    def _threads(self) -> Iterator[ThreadPoolExecutor | None]:
        count = self.settings.engine.threads or os.cpu_count() or 1
        if count == 1:
            yield None
            return
        with ThreadPoolExecutor(count, thread_name_prefix="kernel") as threads:
            yield threads


def _as_of(value: object) -> int | list[int]:
    if value is None:
        return clock.now()
    if isinstance(value, list | tuple):
        return [instant(item, what="as_of") for item in value]
    return instant(value, what="as_of")
