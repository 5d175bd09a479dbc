"""Law 1 over HTTP: what ``POST /get-online-features`` answers has the oracle's bits, read back from JSON."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tests.strategies as generated
from api.app import create_app
from featurestore.dtypes import DType, instant_text
from featurestore.testing.bits import bits
from featurestore.testing.reference import Oracle
from tests.parity.answers import expected_answers, has_fact, status
from tests.parity.projects import VIEW, Project, Templates, deliveries, discard, known_rows


def from_json(value: Any, dtype: DType) -> Any:
    """A value from its JSON face; instants as int microseconds."""
    if value is None:
        return None
    match dtype.kind:
        case "float64":
            return float(value.replace("Infinity", "inf")) if isinstance(value, str) else float(value)
        case "decimal":
            return Decimal(value)
        case "timestamp":
            return microseconds(value)
        case "date":
            return datetime.date.fromisoformat(value)
        case "binary":
            return base64.b64decode(value)
        case "list":
            assert dtype.item is not None
            return [from_json(item, dtype.item) for item in value]
        case "map":
            assert dtype.key is not None
            assert dtype.item is not None
            return {from_key(key, dtype.key): from_json(item, dtype.item) for key, item in value.items()}
    return value


def from_key(text: str, dtype: DType) -> Any:
    return from_json(json.loads(text) if dtype.kind in ("int64", "bool") else text, dtype)


def microseconds(text: str) -> int:
    moment = datetime.datetime.fromisoformat(text)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1)


def post(project: Project, body: Any) -> httpx.Response:
    """One request to the app itself; this process has warmed the kernel long before."""
    app = create_app(project.directory)
    service = app.state.service
    service.warm = True

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://service", timeout=60
        ) as client:
            return await client.post("/get-online-features", json=body)

    try:
        return asyncio.run(send())
    finally:
        service.readers.shutdown()
        service.writers.shutdown()
        service.project.close()


def test_law_1_parity_over_http(tmp_path: Path):
    templates = Templates(tmp_path)

    @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def parity(data: st.DataObject) -> None:
        history = data.draw(generated.histories())
        steps = data.draw(deliveries(history))
        rows = known_rows(history, steps)
        asked = [one for one in data.draw(generated.questions(history)) if one.as_of is not None]
        known_at = data.draw(generated.horizons(generated.History(history.columns, history.source, rows)))
        project = templates.of(history, data.draw(st.integers(0, 1))).project()
        project.take(steps)
        oracle = Oracle(project.view, history.schema, rows)
        expected = expected_answers(oracle, asked, known_at)
        body = {
            "features": [VIEW],
            "entities": {"card": [question.keys[0] for question in asked]},
            "as_of": [instant_text(question.as_of or 0) for question in asked],
            "known_at": instant_text(known_at) if isinstance(known_at, int) else known_at,
        }
        answer = post(project, body)
        assert answer.status_code == 200, answer.text
        made = answer.json()
        dtypes = oracle.dtypes()
        assert made["metadata"]["feature_names"] == ["card", *dtypes]
        found = [has_fact(oracle, question, known_at) for question in asked]
        for name, result in zip(made["metadata"]["feature_names"][1:], made["results"][1:], strict=True):
            wanted = [one[name] for one in expected]
            values = [from_json(value, dtypes[name]) for value in result["values"]]
            assert [bits(value) for value in values] == [bits(one.value) for one in wanted], name
            assert result["statuses"] == [
                status(one, is_found) for one, is_found in zip(wanted, found, strict=True)
            ]
            assert [microseconds(text) for text in result["event_timestamps"]] == [
                one.latest or 0 for one in wanted
            ]
        discard(project)

    parity()
