"""One page: the roles of its streams, and how head, stream table and encoded streams lie in it.

Nulls are a validity stream plus values of the valid rows only, lists are lengths plus items or edits of the row before,
strings are lengths plus bytes or codes into a dictionary, which is itself stored like a page. Layout: ``FORMAT.md`` section
4. Streams are made in ``chunk`` and read in ``page_read``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.storage.layout import NONCE_BYTES, STREAM_ALIGN_BYTES, aligned

VALIDITY, LENGTHS, VALUES, BYTES, CODES, ITEM_VALIDITY, ITEM_LENGTHS = 1, 2, 3, 4, 5, 6, 7
SEQ_MODE, SEQ_NEW, SEQ_KEEP, SEQ_SKIP, SEQ_LITERALS, VALUES_HIGH = 8, 9, 10, 11, 12, 15
FILE_DICTIONARY = 1  # of a stream
OLDEST_FIRST = 1  # of a page of sequences
NO_NULLS, BITMAP, ALL_NULL = 0, 1, 2

HEAD = struct.Struct("<IBBHII")
STREAM = struct.Struct("<BBHIII")
MAX_STREAMS = 16
# A page may decode to this much whatever its size, and beyond that to so many times its stored bytes: more is taken
# for an attempt to exhaust memory. The writer splits pages, or stores them plain, so that it never comes near.
FREE_BYTES = 16 << 20
EXPANSION = 1024
NULL_ROW_BYTES = (
    64 << 10
)  # which a null of a fixed-size list may take in memory, though it takes none in the file


@dataclass(frozen=True)
class Stream:
    """One stream of a page, encoded. ``flags``: `FILE_DICTIONARY` for codes of the column's file-wide dictionary."""

    role: int
    encoding: int
    n_values: int
    payload: bytes
    flags: int = 0


def assemble(
    n_rows: int, validity: int, n_items: int, streams: Sequence[Stream], *, flags: int = 0, cap: int = 0
) -> bytes:
    """Head, stream table and payloads, each payload aligned: a page without the nonce that comes before it."""
    off = NONCE_BYTES + HEAD.size + STREAM.size * len(streams)
    table, body = [], []
    for stream in streams:
        start = aligned(off, STREAM_ALIGN_BYTES)
        table.append(
            STREAM.pack(
                stream.role, stream.flags, stream.encoding, start, len(stream.payload), stream.n_values
            )
        )
        body += [bytes(start - off), stream.payload]
        off = start + len(stream.payload)
    return b"".join([HEAD.pack(n_rows, validity, flags, len(streams), n_items, cap), *table, *body])
