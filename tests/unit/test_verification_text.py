"""What a person is shown of a verification."""

from __future__ import annotations

from featurestore.batch.verification import NamedFact, Verification


def fact(number: int) -> NamedFact:
    return NamedFact("missing from the log", "store", "payments", "card", {"id": number}, 0, None, None)


def test_ten_facts_of_a_kind_are_named_and_the_others_counted():
    found = Verification(answers=5, compared=5, missing=1_200, missing_facts=[fact(n) for n in range(100)])
    lines = found.text().splitlines()
    assert sum("id=" in line for line in lines) == 10 and "id=9 " in lines[-2]
    assert lines[-1] == "    and 1,190 more; --json names up to --limit of them"
    assert len(found.to_dict()["missing_facts"]) == 100


def test_of_few_facts_none_is_left_out():
    found = Verification(answers=5, compared=5, missing=2, missing_facts=[fact(1), fact(2)])
    assert "more" not in found.text()
