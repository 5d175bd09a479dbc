"""A feature as the kernel computes it: bound expressions, an operation, a window."""

from __future__ import annotations

from dataclasses import dataclass, field

from featurestore.dtypes import DType
from featurestore.kernel.expression import Node, columns
from featurestore.kernel.operations import OPERATIONS, Operation


@dataclass(frozen=True)
class Feature:
    """One value an entity and question: ``op`` over the facts for which ``where`` is true, ``input`` (and
    ``order``) not null, and the event time in ``[T - delay_us - window_us, T - delay_us)``.

    ``input`` None: the facts themselves. ``window_us`` None: lifetime. ``explode``: the input is a list whose
    elements are taken one by one. ``input_type`` is the type of an input (of its elements, with ``explode``),
    ``dtype`` that of the value. ``default`` replaces the null of an empty set; it is a Python value of
    ``dtype``.
    """

    view: str
    name: str
    op: str
    input: Node | None
    input_type: DType
    where: Node | None
    order: Node | None
    window_us: int | None
    delay_us: int
    explode: bool
    dtype: DType
    default: object = field(default=None, hash=False)
    parameters: tuple[tuple[str, object], ...] = ()

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.op]

    @property
    def reference(self) -> str:
        """``view:feature``."""
        return f"{self.view}:{self.name}"

    @property
    def column(self) -> str:
        """The name of its result column, ``view__feature``."""
        return f"{self.view}__{self.name}"

    @property
    def reads(self) -> frozenset[str]:
        """The columns that its expressions read."""
        nodes = [node for node in (self.input, self.where, self.order) if node is not None]
        return frozenset().union(*(columns(node) for node in nodes))

    def parameter(self, key: str) -> object:
        return dict(self.parameters).get(key)
