"""The app: one project, served over HTTP. Started by its name, ``api.app:create_app``, as a factory.

``now()`` is called once a request, here at the edge; what it means is decided below.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI

from api import errors, observe, openapi
from api.dependencies import Service
from api.metrics import Metrics
from api.routers import catalog, features, health, ingest
from featurestore import clock
from featurestore.errors import FeatureStoreError
from featurestore.feature_store import FeatureStore
from featurestore.serving.request_log import RequestLog

# Pushes wait for the store's turn in threads of their own, so that reads never stand behind them.
_WRITERS = 8
_READERS = 4

logger = logging.getLogger("featurestore.api")


def create_app(project: str | Path | None = None) -> FastAPI:
    """The service of the project in ``project``, or ``FEATURESTORE_PROJECT``, or the current directory.

    Raises what opening the project's store raises. The kernel is warmed in the background once the app has
    started; until then /ready and whatever needs it answer 503.
    """
    opened = FeatureStore(project or os.environ.get("FEATURESTORE_PROJECT") or ".")
    settings = opened.settings.request_log
    requests = RequestLog(opened.store, opened.root / settings.directory, settings, clock.now)
    service = Service(
        project=opened,
        metrics=Metrics(opened.store, requests.counts),
        requests=requests,
        readers=ThreadPoolExecutor(_READERS, thread_name_prefix="read"),
        writers=ThreadPoolExecutor(_WRITERS, thread_name_prefix="write"),
    )
    app = FastAPI(
        title="featurestore",
        version=version("featurestore"),
        description="Features of entities, now or as of any instant: the same bits as in training sets.",
        lifespan=_lifespan,
        redoc_url=None,
    )
    app.state.service = service
    for route in (*features.routes, *ingest.routes):
        app.router.routes.append(route)
    for router in (catalog.router, health.router):
        app.include_router(router)
    app.add_middleware(observe.Observed, metrics=service.metrics, log_requests=service.settings.log_requests)
    if service.settings.log_requests:
        observe.log_to_stderr()
    errors.install(app)
    app.openapi = lambda: openapi.describe(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    # A daemon: a first start compiles for a minute or so, and being stopped must not wait for it.
    threading.Thread(target=_warm, args=(service,), name="warm", daemon=True).start()
    service.requests.start()
    yield
    # Requests that were running are answered by now; a push that outlived its client is let finish.
    service.writers.shutdown(wait=True)
    service.readers.shutdown(wait=True)
    service.requests.close()
    service.project.close()


def _warm(service: Service) -> None:
    try:
        from featurestore.serving.warm import warm

        warm()
        _first_reads(service)
        service.warm = True
    # The edge of a thread: without this a failure would be seen by nobody, and /ready would never say why.
    except Exception:
        logger.exception("the kernel can't be warmed")
        service.failed = "the kernel can't be warmed; the server's log says why"


def _first_reads(service: Service) -> None:
    """Read the registry, and each view once for nobody."""
    lookup = service.project.lookup
    try:
        with service.store.snapshot() as snapshot:
            views = [view for view in lookup.registry(snapshot).current.values() if not view.plan.hidden]
        for view in views:
            nobody = {key: [None] for key in view.plan.entity.keys}
            lookup.vectors(
                features=[view.plan.name], feature_service=None, entities=nobody, as_of=0, known_at=None
            )
    except FeatureStoreError as error:
        # A store that can't be read now says so to whoever asks, /ready first; it is no reason not to start.
        logger.warning("the store can't be read yet: %s", error.fact)
