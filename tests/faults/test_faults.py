"""Each law's test fails when it should: faults are seeded one by one, and each must be noticed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.faults import of_facts, of_hosts, of_operations
from tests.faults.fault import FAULTS, Fault
from tests.parity.laws import CHECKS, Bench, check_parity


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("bench"))
    # Written before any fault is seeded: a fault in the kernel meets a sound store and a sound oracle.
    assert made.prepared
    assert made.reordered
    assert made.futures
    yield made
    made.close()


@pytest.mark.parametrize("law", CHECKS)
def test_without_a_fault_the_check_of_the_law_passes(bench: Bench, law: int):
    CHECKS[law](bench)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"law {fault.law}: {fault.name}")
def test_a_seeded_fault_makes_the_check_of_its_law_fail(bench: Bench, fault: Fault):
    check = partial(check_parity, only=fault.only) if fault.law == 1 else CHECKS[fault.law]
    with fault.seeded(), pytest.raises(AssertionError) as noticed:
        check(bench)
    # The check noticed; the package did not merely stumble over the fault.
    assert noticed.traceback[-1].path.name == "laws.py"


def test_faults_are_seeded_for_every_law():
    assert {fault.law for fault in FAULTS} == set(CHECKS)
    assert len(FAULTS) >= 15
    places = {fault.put.__module__ for fault in FAULTS}
    assert places == {module.__name__ for module in (of_facts, of_hosts, of_operations)}
