"""The catalogue: what was applied, from the store itself, so that it is what is served."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from api.dependencies import ForReading
from api.schemas import (
    EntityModel,
    FeatureModel,
    FeatureServiceModel,
    FeatureServices,
    FeatureViewModel,
    FeatureViews,
    KeyModel,
    VersionModel,
)
from featurestore.errors import UnknownNameError, suggestion
from featurestore.kernel.expression import canonical
from featurestore.kernel.feature import Feature
from featurestore.plan.nodes import ViewPlan
from featurestore.store.registry import AppliedView, Registry, read_registry

router = APIRouter(tags=["catalogue"])


@router.get("/feature-views", summary="All feature views")
def feature_views(service: ForReading) -> FeatureViews:
    """Every view that was applied, with its features and versions."""
    with service.store.snapshot() as snapshot:
        registry = read_registry(snapshot)
        return FeatureViews(
            store_commit=snapshot.commit_number,
            feature_views=[_view(registry, name, found) for name, found in _views(registry).items()],
        )


@router.get("/feature-views/{name}", summary="One feature view")
def feature_view(name: str, service: ForReading) -> FeatureViewModel:
    """One view that was applied; 404 with a suggestion for a name that none has."""
    with service.store.snapshot() as snapshot:
        registry = read_registry(snapshot)
    views = _views(registry)
    if name not in views:
        raise UnknownNameError(
            f'no feature view "{name}"', hint=suggestion(name, views, what="feature views")
        )
    return _view(registry, name, views[name])


@router.get("/feature-services", summary="All feature services")
def feature_services(service: ForReading) -> FeatureServices:
    """Every service that was applied, with its features."""
    with service.store.snapshot() as snapshot:
        registry = read_registry(snapshot)
        return FeatureServices(
            store_commit=snapshot.commit_number,
            feature_services=[
                FeatureServiceModel(
                    name=name, features=list(plan.features), **_cosmetic(registry, "feature_service", name)
                )
                for name, plan in sorted(registry.services.items())
            ],
        )


def _views(registry: Registry) -> dict[str, list[AppliedView]]:
    """The versions of each view that is declared now, by name."""
    found: dict[str, list[AppliedView]] = {}
    for view in registry.versions.values():
        if not view.plan.hidden and ("feature_view", view.plan.name) in registry.definitions:
            found.setdefault(view.plan.name, []).append(view)
    return dict(sorted(found.items()))


def _view(registry: Registry, name: str, versions: list[AppliedView]) -> FeatureViewModel:
    served = registry.current.get(name)
    # A view that isn't filled yet is shown as it will be.
    plan = (served or max(versions, key=lambda view: view.version.version)).plan
    return FeatureViewModel(
        name=name,
        version=None if served is None else served.version.version,
        versions=[
            VersionModel(
                version=view.version.version, state=view.version.state, fingerprint=view.version.fingerprint
            )
            for view in versions
        ],
        entity=_entity(plan),
        source=plan.source.name,
        features=[_feature(feature) for feature in plan.features],
        **_cosmetic(registry, "feature_view", name),
    )


def _entity(plan: ViewPlan) -> EntityModel:
    keys = zip(plan.entity.keys, plan.entity.dtypes, strict=True)
    return EntityModel(
        name=plan.entity.name, keys=[KeyModel(name=name, dtype=str(dtype)) for name, dtype in keys]
    )


def _feature(feature: Feature) -> FeatureModel:
    return FeatureModel(
        name=feature.name,
        reference=feature.reference,
        op=feature.op,
        dtype=str(feature.dtype),
        input=None if feature.input is None else canonical(feature.input),
        where=None if feature.where is None else canonical(feature.where),
        order=None if feature.order is None else canonical(feature.order),
        window_us=feature.window_us,
        delay_us=feature.delay_us,
        parameters={key: value for key, value in feature.parameters if key != "order"},
    )


def _cosmetic(registry: Registry, kind: str, name: str) -> Mapping[str, Any]:
    payload = json.loads(registry.definitions[kind, name].payload)
    return {part: payload[part] for part in ("description", "tags", "owner")}
