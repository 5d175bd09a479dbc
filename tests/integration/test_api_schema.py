"""Requests made up from the OpenAPI document: no 500, and every answer is one that it documents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from api_project import Served, served, write_project
from hypothesis import HealthCheck, given, settings
from schemathesis import checks as core_checks
from schemathesis.specs.openapi import checks

CHECKS = [
    core_checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(write_project(tmp_path_factory.mktemp("schema") / "project")) as serving:
        yield serving


def test_the_document_is_kept_to(serving: Served) -> None:
    url = f"http://127.0.0.1:{serving.port}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    seen = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        seen += 1

        @settings(max_examples=25, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def keep(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=url, checks=CHECKS)

        keep()
    assert seen == 9
