"""A seeded fault: a mistake that an implementation could make, in place of one function of the package.

Time: none here. The loops are compiled, so a fault wraps the Python function around them: it asks a
microsecond late, or hides a column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Fault:
    """``law`` is the number of the law whose check must fail; ``only`` takes the features it is about."""

    name: str
    law: int
    put: Callable[[Patch], None]
    only: Callable[[str], bool]

    @contextmanager
    def seeded(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            self.put(patch)
            yield


FAULTS: list[Fault] = []


def breaks(
    law: int, *, only: Callable[[str], bool] = lambda _: True
) -> Callable[[Callable[[Patch], None]], Fault]:
    """Make a fault of the function that puts it in place; its name is the function's."""

    def made(put: Callable[[Patch], None]) -> Fault:
        fault = Fault(put.__name__, law, put, only)
        FAULTS.append(fault)
        return fault

    return made
