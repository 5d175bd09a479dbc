"""A project's directory: its settings, its declarations, and the plans that they compile to."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from featurestore.dsl.entity import Entity
from featurestore.dsl.feature_view import FeatureService, FeatureView
from featurestore.dsl.source import EventSource
from featurestore.dsl.table_source import TableSource
from featurestore.errors import DefinitionError, FeatureStoreError, SettingsError
from featurestore.plan.compile import service_plan, source_plan, table_plan, view_plan
from featurestore.plan.lookups import lookup_plans, rows_view
from featurestore.plan.nodes import ServicePlan, SourcePlan, ViewPlan

Declaration = Entity | EventSource | TableSource | FeatureView | FeatureService


@dataclass(frozen=True)
class Declarations:
    """What a project declares, by name."""

    entities: Mapping[str, Entity]
    sources: Mapping[str, EventSource | TableSource]
    views: Mapping[str, FeatureView]
    services: Mapping[str, FeatureService]


@dataclass(frozen=True)
class Plans:
    """What the declarations compile to, by name."""

    sources: Mapping[str, SourcePlan]
    views: Mapping[str, ViewPlan]
    services: Mapping[str, ServicePlan]
    rows: Mapping[str, ViewPlan] = field(default_factory=dict)
    """Views that nobody declares: rows of tables that are looked up, by primary key."""


def load_module(path: Path) -> ModuleType:
    """Run a declarations' file; DefinitionError names the file and the line of what goes wrong."""
    if not path.is_file():
        raise no_declarations(path)
    module = ModuleType("featurestore_declarations")
    module.__file__ = str(path)
    # Some decorators, those of dataclasses among them, look up the module of what they decorate.
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.parent))
    try:
        # Compiled each time: Python's cache of bytecode misses an edit within a second that keeps the length.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise DefinitionError(
            f"{Path(error.filename or path).name}{line}: {error.msg}",
            hint="the declarations are Python; mend the syntax",
        ) from None
    except FeatureStoreError as error:
        raise type(error)(f"{path.name}, line {_line(error, path)}: {error.fact}", hint=error.hint) from None
    except SystemExit as error:
        raise DefinitionError(
            f"{path.name}, line {_line(error, path)}: the file ends the program, exit({error.code})",
            hint="it is read by others: let it declare and do nothing else",
        ) from None
    # An author's file may raise anything; this is the edge where it becomes a message.
    except Exception as error:
        raise DefinitionError(
            f"{path.name}, line {_line(error, path)}: {type(error).__name__}: {error}",
            hint="the file must run by itself",
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def no_declarations(path: Path) -> SettingsError:
    """What to say of a directory that is no project."""
    return SettingsError(
        f"there is no {path.name} in {path.parent}",
        hint='run "featurestore init", or name the project\'s directory with -C DIR',
    )


def _line(error: BaseException, path: Path) -> int:
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return lines[-1] or 0 if lines else 0


def collect(values: Mapping[str, object]) -> Declarations:
    """The declarations among a module's values, and those that they name."""
    found: dict[type, dict[str, Declaration]] = {
        Entity: {},
        EventSource: {},
        FeatureView: {},
        FeatureService: {},
    }
    kinds = {
        Entity: "entities",
        EventSource: "sources",
        FeatureView: "feature views",
        FeatureService: "services",
    }

    def add(item: Declaration) -> None:
        kind = EventSource if isinstance(item, TableSource) else type(item)
        known = found[kind].setdefault(item.name, item)
        if known is not item and known != item:
            raise DefinitionError(
                f'two {kinds[kind]} are named "{item.name}"', hint="give one of them another name"
            )
        if isinstance(item, FeatureView):
            add(item.entity)
            add_source(item.source)
        elif isinstance(item, FeatureService):
            for part in item.features:
                if isinstance(part, FeatureView):
                    add(part)

    def add_source(source: EventSource | TableSource) -> None:
        if not isinstance(source, EventSource) or not source.lookups:
            add(source)
            return
        # What is looked up on the way is no part of the source: plain or not, it is one.
        add(replace(source, lookups=()))
        for lookup in source.lookups:
            add(lookup.of)

    for value in values.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, EventSource | TableSource):
                add_source(item)
            elif isinstance(item, Declaration):
                add(item)
    return Declarations(found[Entity], found[EventSource], found[FeatureView], found[FeatureService])  # type: ignore[arg-type]


def compile_declarations(declarations: Declarations, root: Path) -> Plans:
    """Plans of all declarations; the columns of each source's log are looked up below ``root``."""
    from featurestore.log.changes import change_columns, effective
    from featurestore.log.schema import source_columns, typed_columns
    from featurestore.log.zones import zone_info

    sources: dict[str, SourcePlan] = {}
    for name, source in declarations.sources.items():
        try:
            zone_info(source.timezone)
        except DefinitionError as error:
            raise DefinitionError(f'source "{name}": {error.fact}', hint=error.hint) from None
        over = [view for view in declarations.views.values() if view.source.name == name]
        keys = tuple(dict.fromkeys(key for view in over for key in view.entity.keys))
        if isinstance(source, TableSource):
            sources[name] = table_plan(source, change_columns(source, keys, root), *effective(source))
            continue
        if source.log is None:
            columns = typed_columns(source, keys)
        else:
            columns = source_columns(source, keys, root)
        sources[name] = source_plan(source, columns)
    made = _Views(sources)
    views = {name: made.plan(view) for name, view in declarations.views.items()}
    services = {name: service_plan(service, views) for name, service in declarations.services.items()}
    # Only those whose columns a feature reads.
    rows = {one.name: made.rows[one.name] for view in views.values() for one in view.inner() if one.hidden}
    return Plans(sources, views, services, rows)


class _Views:
    """Plans of views and, each once, of what they look up."""

    def __init__(self, sources: Mapping[str, SourcePlan]) -> None:
        self._sources = sources
        self._made: dict[str, ViewPlan] = {}
        self.rows: dict[str, ViewPlan] = {}

    def plan(self, of: TableSource | FeatureView) -> ViewPlan:
        if isinstance(of, TableSource):
            view = rows_view(self._sources[of.name])
            return self.rows.setdefault(view.name, view)
        if of.name not in self._made:
            source = self._sources[of.source.name]
            lookups = of.source.lookups if isinstance(of.source, EventSource) else ()
            self._made[of.name] = view_plan(of, source, lookup_plans(of, source, lookups, self.plan))
        return self._made[of.name]
