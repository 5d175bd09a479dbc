"""``/health``: the process lives. ``/ready``: it can answer now, fast. ``/metrics``: what it has done."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.dependencies import ForReading, Open
from api.schemas import Health, Ready

router = APIRouter(tags=["operation"])


@router.get("/health", summary="The process lives")
async def health() -> Health:
    """Open to everybody, and true as long as the process answers at all."""
    return Health(status="ok")


@router.get("/ready", summary="The service can answer")
def ready(service: Open) -> Ready:
    """The kernel is warm and the store can be read; 503 otherwise. Open to everybody."""
    service.check_warm()
    with service.store.snapshot() as snapshot:
        return Ready(status="ready", store_commit=snapshot.commit_number)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
def metrics(service: ForReading) -> Response:
    """Requests, latencies, the store's commit and pushed rows, in Prometheus' text format."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
