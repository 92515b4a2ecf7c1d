"""Where the rows of clustered columns lie: they came in one order and are stored in another.

Between ``fetch`` and ``group_read``, which puts such columns back into the order in which their rows came.
"""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays
from headrace.storage.fetch import ChunkReader


class ClusterOrder:
    """Where the rows of clustered columns of a group lie; safe to use from several threads."""

    def __init__(self, reader: ChunkReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._places: NDArray[np.int64] | None = None

    def places(self) -> NDArray[np.int64]:
        """int64[rows of the group]: where the row that came i-th is stored."""
        with self._lock:
            if self._places is None:
                reader = self._reader
                found = reader.piece(0, len(reader.chunk.pages))
                if not isinstance(found, pa.Array) or found.type != pa.uint32() or found.null_count:
                    reader.place(0).fail("numbers of clusters", "uint32 without nulls", "others")
                numbers = arrays.numbers(found, np.dtype("u4"))
                if int(numbers.max(initial=0)) < 1 << 16:
                    numbers = numbers.astype(np.uint16)  # which numpy sorts by radix, ten times as fast
                order = np.argsort(numbers, kind="stable")
                self._places = np.empty(len(order), np.int64)
                self._places[order] = np.arange(len(order))
            return self._places
