"""A store of its own for each test, on every database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from featurestore.store import Store


@pytest.fixture
def url(empty_store_url: str) -> str:
    return empty_store_url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url, migrate=True) as opened:
        yield opened
