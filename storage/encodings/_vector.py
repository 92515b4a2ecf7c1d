"""Two steps of kernels that LLVM makes no vectors of by itself: running sums along 16 lanes, and look-ups four at a time.

A loop that numba compiles keeps its running sums in memory, and writes what it looks up value by value. Here both stand as
they read in Python, which is what runs with the JIT off; ``register`` tells numba to compile them to vector instructions
instead. A kernel that calls one says so: ``@kernel_with(register)``. numba keeps compiled kernels by the file they stand in,
so whoever edits this file touches theirs too.
"""

from functools import cache
from typing import Any, Final

import numpy as np

from headrace.storage.encodings.contract import Array

LANES: Final = 16
FOUR: Final = 4
Index = np.uint64 | int


def add_rows(out: Array, at: Index, differences: Array, step: Index, n_rows: np.uint64) -> None:
    """Fill ``out[at:]`` with ``n_rows`` rows of 16: each the row before it plus 16 of ``differences[step:]``."""
    for i in range(int(n_rows) * LANES):
        out[int(at) + i] = out[int(at) + i - LANES] + differences[int(step) + i]


def look_up_four(table: Array, codes: Array, at: Index, out: Array, to: Index) -> None:
    """Fill ``out[to : to + 4]`` with the entries that ``codes[at : at + 4]`` name."""
    for i in range(FOUR):
        out[int(to) + i] = table[codes[int(at) + i]]


@cache
def register() -> None:
    """Have numba compile the functions above as they are written below; before the first kernel that uses one."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic, overload

    index = ir.IntType(64)

    def vector_at(builder: Any, data: Any, at: Any, kind: Any) -> Any:
        return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())

    def rows(_: Any, out: Any, at: Any, differences: Any, step: Any, n_rows: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to, start, added, first, n = args
            item = signature.args[0].dtype.bitwidth
            lanes = ir.VectorType(ir.IntType(item), LANES)
            data = context.make_array(signature.args[0])(context, builder, to).data
            other = context.make_array(signature.args[2])(context, builder, added).data
            sums = cgutils.alloca_once(builder, lanes)  # which LLVM keeps in registers
            above = vector_at(builder, data, builder.sub(start, index(LANES)), lanes)
            builder.store(builder.load(above, align=item // 8), sums)
            with cgutils.for_range(builder, n, intp=index) as loop:
                past = builder.mul(loop.index, index(LANES))
                more = builder.load(
                    vector_at(builder, other, builder.add(first, past), lanes), align=item // 8
                )
                total = builder.add(builder.load(sums), more)
                builder.store(total, sums)
                builder.store(
                    total, vector_at(builder, data, builder.add(start, past), lanes), align=item // 8
                )
            return context.get_dummy_value()

        return types.none(out, types.uint64, differences, types.uint64, types.uint64), generate

    def four(_: Any, table: Any, codes: Any, at: Any, out: Any, to: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            entries, numbers, start, target, first = args
            item, width = signature.args[3].dtype.bitwidth, signature.args[1].dtype.bitwidth
            values = ir.VectorType(ir.IntType(item), FOUR)
            source = context.make_array(signature.args[0])(context, builder, entries).data
            data = context.make_array(signature.args[3])(context, builder, target).data
            code = context.make_array(signature.args[1])(context, builder, numbers).data
            word = ir.IntType(FOUR * width)  # four codes are loaded as one number
            packed = builder.load(vector_at(builder, code, start, word), align=width // 8)
            found = ir.Constant(values, ir.Undefined)
            for lane in range(FOUR):
                one = builder.trunc(builder.lshr(packed, word(lane * width)), ir.IntType(width))
                entry = builder.load(builder.gep(source, [builder.zext(one, index)]))
                found = builder.insert_element(found, entry, ir.IntType(32)(lane))
            builder.store(found, vector_at(builder, data, first, values), align=item // 8)
            return context.get_dummy_value()

        return types.none(table, codes, types.uint64, out, types.uint64), generate

    row_sums: Any = intrinsic(rows)
    four_entries: Any = intrinsic(four)

    @overload(add_rows, strict=False)  # types in one signature alone are no difference
    def _add_rows(out: Any, at: Any, differences: Any, step: Any, n_rows: Any) -> Any:
        return lambda out, at, differences, step, n_rows: row_sums(out, at, differences, step, n_rows)

    @overload(look_up_four, strict=False)
    def _look_up_four(table: Any, codes: Any, at: Any, out: Any, to: Any) -> Any:
        return lambda table, codes, at, out, to: four_entries(table, codes, at, out, to)
