"""Which encoding a stream gets: the smallest by closed-form size, with a thumb on the scale for slow decoders.

The writer asks `choose` once per page; `explain` shows the same decision to people. Sizes come from `Stats` alone, so
nothing is encoded twice, no sample is drawn and equal values always give equal files. Source: the scheme picker of
BtrBlocks (SIGMOD 2023, section 3), without its sampling, which closed forms make unnecessary, and without cascades.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from headrace.storage.encodings import ALL, Encoding, Stats, stats
from headrace.storage.encodings.contract import Array
from headrace.storage.encodings.dictionary import Dictionary

# A byte of each costs this much when read, against a byte that is only copied: bit-packing is no slower than memory, but
# a few per cent saved on noise are not worth giving up a page that needs no decoding. At least 1: what beats plain by
# its cost then beats it by its size too, so no choice is ever larger than plain.
_COST: Final = {"constant": 1.0, "plain": 1.0, "bitpack": 1.08, "dictionary": 1.15, "rle": 1.15}


class Candidate(NamedTuple):
    """One encoding's part in a choice."""

    name: str
    can: bool
    """Whether it can write these values."""
    predicted_bytes: int
    """Its size if it can; for a dictionary with the entries."""
    chosen: bool


def choose(values: Array, *, dictionary: bool = False) -> Encoding:
    """The encoding to write `values` with.

    Args:
        values: any 1-D array with a dtype in `encodings.DTYPES`.
        dictionary: True if the caller has a place for entries. Only then may the answer be `Dictionary`, which
            encodes the codes of `dictionary.build(values)` and not the values.

    Raises:
        UnsupportedArray: another shape or dtype.

    >>> import numpy as np
    >>> choose(np.zeros(100)).name
    'constant'
    """
    return _cheapest(stats(values, count_distinct=dictionary), dictionary)


def explain(values: Array, *, dictionary: bool = False) -> list[Candidate]:
    """How `choose` came to its answer: one candidate per encoding, in the order of `encodings.ALL`."""
    counted = stats(values)
    chosen = _cheapest(counted, dictionary)
    return [
        Candidate(encoding.name, encoding.can_encode(counted), encoding.size(counted), encoding is chosen)
        for encoding in ALL
    ]


def _cheapest(counted: Stats, dictionary: bool) -> Encoding:
    # min keeps the first of equals, and ALL is ordered from the fastest decoder to the slowest.
    return min(
        _candidates(counted, dictionary),
        key=lambda encoding: _COST[encoding.name] * encoding.size(counted),
    )


def _candidates(counted: Stats, dictionary: bool) -> Iterator[Encoding]:
    for encoding in ALL:
        if encoding.can_encode(counted) and (dictionary or not isinstance(encoding, Dictionary)):
            yield encoding
