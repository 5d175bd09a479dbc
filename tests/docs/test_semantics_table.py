"""docs/semantics.md: every hand-computed example is asked; its table of operations is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore.dsl.aggregation import agg
from featurestore.kernel.operations import OPERATIONS
from featurestore.testing.bits import bits
from featurestore.testing.hosts import kernel_answer
from featurestore.testing.worked_examples import CountsExample, Example, read, value_of

PAGE = Path(__file__).parents[2] / "docs" / "semantics.md"
EXAMPLES, COUNTS = read(PAGE)


def by_line(example: Example | CountsExample) -> str:
    return f"line {example.line}"


def operations_table() -> str:
    """The page's table of operations, from their definitions."""
    lines = ["| operation | takes | lists | result |", "|---|---|---|---|"]
    for operation in OPERATIONS.values():
        column = {"none": "", "optional": "[column]", "required": "column"}[operation.column]
        arguments = [column] if column else []
        arguments += [
            f"{name}=" if name in operation.required else f"[{name}=]" for name in operation.parameters
        ]
        takes = ", ".join(operation.takes) if operation.takes else "any"
        lists = "whole" if operation.whole_lists else "exploded"
        lines.append(f"| `{operation.name}({', '.join(arguments)})` | {takes} | {lists} | {operation.doc} |")
    return "\n".join(lines)


def test_the_page_has_an_example_of_every_operation():
    assert {example.feature.op for example in EXAMPLES} == set(OPERATIONS)


def test_the_table_of_operations_is_that_of_the_kernel():
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(
        "<!-- operations: made from featurestore/kernel/operations.py -->"
    )
    table, _, _ = rest.partition("<!-- end of operations -->")
    assert table.strip() == operations_table()


@pytest.mark.parametrize("example", EXAMPLES, ids=by_line)
def test_the_oracle_answers_as_computed_by_hand(example: Example):
    oracle = example.history.oracle(example.feature)
    [(name, dtype)] = oracle.dtypes().items()
    value = oracle.answer(example.keys, as_of=example.as_of, known_at=example.known_at)[name]
    assert (bits(value.value), value.flagged) == (bits(value_of(example.expected, dtype)), example.flagged)


@pytest.mark.parametrize("example", EXAMPLES, ids=by_line)
def test_the_kernel_answers_as_computed_by_hand(example: Example):
    history = example.history
    view = history.view(example.feature)
    [(name, dtype)] = history.oracle(example.feature).dtypes().items()
    rows = history.good_rows()
    [answer] = kernel_answer(view, history.schema, rows, [(example.keys, example.as_of)], example.known_at)
    value = answer[name]
    assert (bits(value.value), value.flagged) == (bits(value_of(example.expected, dtype)), example.flagged)


@pytest.mark.parametrize("example", COUNTS, ids=by_line)
def test_the_oracle_counts_as_computed_by_hand(example: CountsExample):
    assert example.history.oracle(agg.count()).counts(known_at=example.known_at) == example.expected
