"""Kernels of the rows: chains of 8-wide blocks, read into and written from a dense scratch of the batch's rows.

In the flow: `store` gathers the rows of a batch, a learner changes the scratch, `scatter` puts it back. fp32 is stored as it is;
bf16 drops 16 bits; int8 has one scale a block, the largest magnitude over 127. What is dropped is rounded stochastically,
with bits that depend on the block and the number of the scatter alone, so that small steps are kept on average and a run can be
repeated to the bit (Gupta et al., "Deep learning with limited numerical precision", ICML 2015).
"""

from typing import Any

import numpy as np

from headrace.streaming.learners.embedding.index import mix
from headrace.streaming.learners.embedding.layout import FREE_BLOCK, LIVE_BLOCKS, NONE
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
def cut(bits: Any, random: Any) -> Any:
    """A weight, given as its 32 bits, in 16. Adding up to the dropped half and cutting rounds up as often as the dropped bits say."""
    up = np.uint64(bits) + np.uint64(random & 0xFFFF)
    return np.uint16((up >> np.uint64(16)) & np.uint64(0xFFFF))


@kernel
def quantised(value: Any, scale: Any, random: Any) -> Any:
    """A weight in 8 bits, in units of `scale`."""
    exact = np.float64(value) / np.float64(scale) if scale > 0.0 else 0.0
    down = float(np.floor(exact))
    if np.float64(random) < (exact - down) * 4294967296.0:
        down += 1.0
    return np.int8(min(127.0, max(-127.0, down)))


@kernel
def write(arrays: Any, places: Any, values: Any, bits: Any, draw: Any) -> None:
    """Store `values: float32[n, 8 * m]` (`bits`: the same memory as uint32) in the blocks `places: uint32[n, m]`, but for NONE."""
    for at in range(places.shape[0]):
        for place in range(places.shape[1]):
            block, start = places[at, place], 8 * place
            if block == NONE:
                continue
            if arrays.fp32.shape[0] > 0:
                for lane in range(8):
                    arrays.fp32[block, lane] = values[at, start + lane]
            elif arrays.bf16.shape[0] > 0:
                for lane in range(8):
                    arrays.bf16[block, lane] = cut(bits[at, start + lane], noise(block, draw, lane))
            else:
                largest = np.float32(0.0)
                for lane in range(8):
                    largest = max(largest, abs(values[at, start + lane]))
                scale = largest / np.float32(127.0)
                arrays.scale[block] = scale
                for lane in range(8):
                    random = noise(block, draw, lane)
                    arrays.int8[block, lane] = quantised(values[at, start + lane], scale, random)


@kernel
def scatter(arrays: Any, rows: Any, values: Any, bits: Any, draw: Any) -> None:
    """Store `values: float32[n, 8 * m]` as the weights of `rows: uint32[n]`, each named once."""
    # A call that is handed the table costs more than a block: the blocks are listed first and written in one.
    places = np.full((rows.shape[0], values.shape[1] // 8), NONE, np.uint32)
    for at in range(rows.shape[0]):
        block = arrays.head[rows[at]]
        for place in range(arrays.blocks[rows[at]]):
            places[at, place] = block
            block = arrays.chain[block]
    write(arrays, places, values, bits, draw)


@kernel
def last(arrays: Any, row: Any) -> Any:
    """The last block of a row that has one."""
    block = arrays.head[row]
    for _ in range(arrays.blocks[row] - 1):
        block = arrays.chain[block]
    return block


@kernel
def grow(arrays: Any, row: Any) -> Any:
    """Append a free block to a row, for the caller to `write`; there is one. No trace of the optimiser's is left in it."""
    block = np.uint32(arrays.free[FREE_BLOCK])
    arrays.free[FREE_BLOCK] = arrays.chain[block]
    arrays.free[LIVE_BLOCKS] += 1
    if arrays.first.shape[0] > 0:
        arrays.first[block] = 0.0
        arrays.second[block] = 0.0
    if arrays.blocks[row] == 0:
        arrays.head[row] = block
    else:
        arrays.chain[last(arrays, row)] = block
    arrays.blocks[row] += 1
    return block


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
    arrays.chain[block] = np.uint32(arrays.free[FREE_BLOCK])
    arrays.free[FREE_BLOCK] = block
    arrays.free[LIVE_BLOCKS] -= 1


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
