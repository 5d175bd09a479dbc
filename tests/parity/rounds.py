"""A property over generated histories, gone on with until a run has met what it must.

Time: none is read; each round draws from a seed of its own, so that a run is the same every day.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

ROUNDS = 10


def run_until(
    check: Callable[[st.DataObject], None], examples: int, enough: Callable[[], bool] = lambda: True
) -> None:
    """``examples`` of ``check``, and as many again while they are not ``enough``, up to ten times."""
    for number in range(ROUNDS):

        @seed(number)
        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def every(data: st.DataObject) -> None:
            check(data)

        every()
        if enough():
            break
