"""Eight bytes at any address, as one load or store: what compiled loops can't say in Python.

No time here. Little-endian, like every machine that this runs on. There is no check: the bytes must be there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

Int = int | np.int64


def _place(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), ir.IntType(64).as_pointer())


def _load8(typing_context: Any, data: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_place(context, builder, signature.args[0], *arguments), align=1)

    return types.uint64(data, types.int64), generate


def _store8(typing_context: Any, value: Any, at: Any, out: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, at, array = arguments
        builder.store(value, _place(context, builder, signature.args[2], array, at), align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64, out), generate


# load8(data, at) is the uint64 in data[at : at + 8]; store8(value, at, out) writes it there.
load8 = cast(Callable[[NDArray[np.uint8], Int], np.uint64], intrinsic(_load8))
store8 = cast(Callable[[np.uint64, Int, NDArray[np.uint8]], None], intrinsic(_store8))
