"""``/get-online-features`` and ``/explain-value``: values as of an instant, and the facts behind one.

A question at ``as_of`` is about what was strictly before it; without one it is asked as of now.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial

import orjson
from starlette.types import Receive, Scope

from api.body import JSON_TYPES, content_type, header, read_body
from api.decode import decoded
from api.dependencies import PlainRoute, Service
from api.errors import unfit
from api.schemas import ExplainRequest, OnlineRequest, explain_decoder, online_decoder
from featurestore import clock
from featurestore.instants import horizon, instant
from featurestore.serving.request_log import Answered

# Measured on two cores, 16 connections: 5 values take 18 ms in the event loop and 26 ms by way of a thread,
# 500 values 102 ms in the loop and 73 ms in threads: the kernel lets go of the interpreter's lock.
_INLINE_VALUES = 64
_LONGEST_ID = 200


async def get_online_features(service: Service, scope: Scope, receive: Receive) -> bytes:
    service.authorize_reading(scope)
    content_type(scope, JSON_TYPES)
    settings = service.settings
    body = await read_body(scope, receive, limit=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    asked = decoded(online_decoder, body)
    entities = max((len(column) for column in asked.entities.values()), default=0)
    if entities > settings.max_entities:
        raise unfit(f"the request asks for {entities} entities, of at most {settings.max_entities}",
                    hint="ask in parts, or raise serving.max_entities")  # fmt: skip
    features = len(asked.features or ())
    if features > settings.max_features:
        raise unfit(f"the request asks for {features} features, of at most {settings.max_features}",
                    hint="ask in parts, or raise serving.max_features")  # fmt: skip
    now_us = clock.now()
    request_id = (header(scope, b"x-request-id") or os.urandom(16).hex())[:_LONGEST_ID]
    if asked.features is not None and entities * features <= _INLINE_VALUES:
        return online_features(service, asked, now_us, request_id)
    work = partial(online_features, service, asked, now_us, request_id)
    return await asyncio.get_running_loop().run_in_executor(service.readers, work)


def online_features(service: Service, asked: OnlineRequest, now_us: int, request_id: str) -> bytes:
    """The answer's body, which is logged where the request is in the sample."""
    match asked.as_of:
        case None:
            as_of: int | list[int] = now_us
        case list():
            as_of = [instant(one, what="as_of") for one in asked.as_of]
        case text:
            as_of = instant(text, what="as_of")
    vectors = service.lookup.vectors(
        features=asked.features,
        feature_service=asked.feature_service,
        entities=asked.entities,
        as_of=as_of,
        known_at=horizon(asked.known_at),
    )
    response = vectors.to_response(full_feature_names=asked.full_feature_names)
    body = orjson.dumps(response)
    if service.requests.wants(request_id):
        service.requests.offer(Answered(request_id, now_us, vectors, response, len(body)))
    return body


async def get_explanation(service: Service, scope: Scope, receive: Receive) -> bytes:
    service.authorize_reading(scope)
    content_type(scope, JSON_TYPES)
    settings = service.settings
    body = await read_body(scope, receive, limit=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    asked = decoded(explain_decoder, body)
    work = partial(explanation, service, asked, clock.now())
    return await asyncio.get_running_loop().run_in_executor(service.readers, work)


def explanation(service: Service, asked: ExplainRequest, now_us: int) -> bytes:
    """The answer's body."""
    from featurestore.serving.explain_value import explain_value

    for name, column in asked.entities.items():
        if len(column) != 1:
            raise unfit(
                f'entity column "{name}" has {len(column)} values', hint="a value is explained for one entity"
            )
    explained = explain_value(
        service.lookup,
        service.store,
        asked.feature,
        {name: column[0] for name, column in asked.entities.items()},
        as_of=now_us if asked.as_of is None else instant(asked.as_of, what="as_of"),
        known_at=horizon(asked.known_at),
    )
    return orjson.dumps(explained.to_dict())


routes = (
    PlainRoute("/get-online-features", get_online_features),
    PlainRoute("/explain-value", get_explanation),
)
