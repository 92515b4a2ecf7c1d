"""Kernels of the rows: chains of 8-wide blocks, read into and written from a dense scratch of the batch's rows.

In the flow: `store` gathers the rows of a batch, a learner changes the scratch, `scatter` puts it back. fp32 is stored as it is;
bf16 drops 16 bits; int8 has one scale a block, the largest magnitude over 127. What is dropped is rounded stochastically,
with bits that depend on the block and the number of the scatter alone, so that small steps are kept on average and a run can be
repeated to the bit (Gupta et al., "Deep learning with limited numerical precision", ICML 2015).
"""

from typing import Any

import numpy as np

from headrace.streaming.learners.embedding.index import mix
from headrace.streaming.learners.ihomer.jit import kernel


@kernel
def noise(block: Any, draw: Any, lane: Any) -> Any:
    """32 random bits for a lane of a block in a scatter."""
    h = np.uint64(block) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(draw) * np.uint64(0xD1B54A32D192ED03)
    h += np.uint64(lane) * np.uint64(0x8CB92BA72F3D8DD7)
    return np.int64(np.uint64(mix(h)) >> np.uint64(32))


@kernel
def gather(arrays: Any, rows: Any, out: Any, bits: Any) -> None:
    """out: float32[n, 8 * m], zero, the weights of `rows: uint32[n]`; bits: the same memory as uint32."""
    for at in range(rows.shape[0]):
        block = arrays.head[rows[at]]
        for place in range(arrays.blocks[rows[at]]):
            start = 8 * place
            if arrays.fp32.shape[0] > 0:
                for lane in range(8):
                    out[at, start + lane] = arrays.fp32[block, lane]
            elif arrays.bf16.shape[0] > 0:
                for lane in range(8):
                    bits[at, start + lane] = np.uint32(arrays.bf16[block, lane]) << np.uint32(16)
            else:
                for lane in range(8):
                    out[at, start + lane] = np.float32(arrays.int8[block, lane]) * arrays.scale[block]
            block = arrays.chain[block]


@kernel
def write(arrays: Any, block: Any, values: Any, bits: Any, draw: Any) -> None:
    """Store `values: float32[8]` (`bits`: the same memory as uint32) as the weights of a block."""
    if arrays.fp32.shape[0] > 0:
        for lane in range(8):
            arrays.fp32[block, lane] = values[lane]
    elif arrays.bf16.shape[0] > 0:
        for lane in range(8):
            # Adding up to the dropped half and cutting rounds up as often as the dropped bits say.
            up = np.uint64(bits[lane]) + np.uint64(noise(block, draw, lane) & 0xFFFF)
            arrays.bf16[block, lane] = np.uint16((up >> np.uint64(16)) & np.uint64(0xFFFF))
    else:
        largest = np.float32(0.0)
        for lane in range(8):
            largest = max(largest, abs(values[lane]))
        scale = largest / np.float32(127.0)
        arrays.scale[block] = scale
        for lane in range(8):
            exact = np.float64(values[lane]) / np.float64(scale) if scale > 0.0 else 0.0
            down = float(np.floor(exact))
            if np.float64(noise(block, draw, lane)) < (exact - down) * 4294967296.0:
                down += 1.0
            arrays.int8[block, lane] = np.int8(min(127.0, max(-127.0, down)))


@kernel
def scatter(arrays: Any, rows: Any, values: Any, bits: Any, draw: Any) -> None:
    """Store `values: float32[n, 8 * m]` as the weights of `rows: uint32[n]`, each named once."""
    for at in range(rows.shape[0]):
        block = arrays.head[rows[at]]
        for place in range(arrays.blocks[rows[at]]):
            start = 8 * place
            write(arrays, block, values[at, start : start + 8], bits[at, start : start + 8], draw)
            block = arrays.chain[block]


@kernel
def last(arrays: Any, row: Any) -> Any:
    """The last block of a row that has one."""
    block = arrays.head[row]
    for _ in range(arrays.blocks[row] - 1):
        block = arrays.chain[block]
    return block


@kernel
def grow(arrays: Any, row: Any, values: Any, bits: Any, draw: Any) -> None:
    """Append a free block with `values: float32[8]` to a row; there is one. No trace of its last use is left."""
    block = np.uint32(arrays.free[1])
    arrays.free[1] = arrays.chain[block]
    arrays.free[3] += 1
    if arrays.first.shape[0] > 0:
        arrays.first[block] = 0.0
        arrays.second[block] = 0.0
    if arrays.blocks[row] == 0:
        arrays.head[row] = block
    else:
        arrays.chain[last(arrays, row)] = block
    arrays.blocks[row] += 1
    write(arrays, block, values, bits, draw)


@kernel
def shrink(arrays: Any, row: Any) -> None:
    """Give back the last block of a row that has one; its weights are cleared."""
    block = last(arrays, row)
    for lane in range(8):
        if arrays.fp32.shape[0] > 0:
            arrays.fp32[block, lane] = 0.0
        elif arrays.bf16.shape[0] > 0:
            arrays.bf16[block, lane] = 0
        else:
            arrays.int8[block, lane] = 0
    arrays.blocks[row] -= 1
    arrays.chain[block] = np.uint32(arrays.free[1])
    arrays.free[1] = block
    arrays.free[3] -= 1


@kernel
def last_norms(arrays: Any, norms: Any) -> None:
    """norms: float32[R], the norm of each row's last block, infinite where it has fewer than two."""
    for row in range(arrays.blocks.shape[0]):
        norms[row] = np.inf
        if arrays.blocks[row] >= 2:
            block = last(arrays, row)
            total = 0.0
            for lane in range(8):
                if arrays.fp32.shape[0] > 0:
                    value: Any = np.float64(arrays.fp32[block, lane])
                elif arrays.bf16.shape[0] > 0:
                    # Only an order is wanted: a monotone reading of the bits would do, but a norm must add up.
                    raw = np.int64(arrays.bf16[block, lane])
                    exponent = (raw >> 7) & 0xFF
                    value = (1.0 + (raw & 0x7F) / 128.0) * 2.0 ** (exponent - 127) if exponent else 0.0
                else:
                    value = np.float64(arrays.int8[block, lane]) * np.float64(arrays.scale[block])
                total += value * value
            norms[row] = np.sqrt(total)
