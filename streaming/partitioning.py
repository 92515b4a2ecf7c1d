"""Which partition a key belongs to, for whole columns of keys: murmur2 as Kafka's own clients compute it.

Used by `producer`, so that the rows of one Arrow message all belong to one partition and meet the JSON messages of
the same user there. Source: `org.apache.kafka.common.utils.Utils.murmur2`, the 32-bit MurmurHash2 with Kafka's seed.

Not here: the choice for messages without a key.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_SEED = 0x9747B28C
_M = np.uint32(0x5BD1E995)
_POSITIVE = np.uint32(0x7FFFFFFF)  # Kafka drops the sign instead of taking the absolute value


def partition_of_keys(keys: pa.BinaryArray, n_partitions: int) -> NDArray[np.int64]:
    """The partition of each key.

    Args:
        keys: n keys, binary, none of them null.
        n_partitions: of the topic.

    Returns:
        int64[n], 0 ≤ p < `n_partitions`.
    """
    return ((murmur2(keys) & _POSITIVE) % np.uint32(n_partitions)).astype(np.int64)


def murmur2(keys: pa.BinaryArray) -> NDArray[np.uint32]:
    """uint32[n], the hash of each of n keys (binary, none null); one vector step per four bytes of the longest."""
    _, offsets, data = keys.buffers()
    ends = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1].astype(np.int64)
    # Three bytes more, so that the last block of the last key can be read whole.
    content = np.zeros(int(ends[-1]) + 3, np.uint8)
    if data is not None:
        content[: ends[-1]] = np.frombuffer(data, np.uint8)[: ends[-1]]
    begins, lengths = ends[:-1], np.diff(ends)
    blocks, rest = lengths // 4, lengths % 4
    hashes = np.uint32(_SEED) ^ lengths.astype(np.uint32)
    for block in range(int(blocks.max(initial=0))):
        here = blocks > block
        k = _word(content, begins[here] + 4 * block) * _M
        k = (k ^ (k >> np.uint32(24))) * _M
        hashes[here] = (hashes[here] * _M) ^ k
    tail = rest > 0
    mask = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF], np.uint32)[rest[tail]]
    hashes[tail] = (hashes[tail] ^ (_word(content, begins[tail] + 4 * blocks[tail]) & mask)) * _M
    hashes = (hashes ^ (hashes >> np.uint32(13))) * _M
    return hashes ^ (hashes >> np.uint32(15))


def _word(content: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The little-endian uint32 at each place."""
    word = content[at].astype(np.uint32)
    for byte in (1, 2, 3):
        word |= content[at + byte].astype(np.uint32) << np.uint32(8 * byte)
    return word
