"""The broker that all tests of streams share. A broker that can't start fails them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.kafka import Broker, running_broker


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    with running_broker() as running:
        yield running
