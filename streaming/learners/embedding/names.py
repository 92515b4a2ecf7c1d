"""The ids of rows that are not whole numbers, to give them back: chunks of 16 bytes, a fixed number of them.

In the flow: beside the table, for the field whose ids are answers (items). A whole number is read from its key; a text, bytes, a
fraction or a huge number stands here with its type. An id that does not fit is refused before it has a row.
"""

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.embedding.keys import U64, is_whole_number
from headrace.streaming.learners.embedding.layout import NONE

CHUNK: Final = 16


class Names:
    """Names of up to `rows` rows in at most `nbytes`, links included; 0 bytes hold none."""

    def __init__(self, nbytes: int, rows: int) -> None:
        chunks = max(0, nbytes - 8 * rows - 8) // (CHUNK + 4)
        held = rows if chunks else 0
        self.text = np.zeros((chunks, CHUNK), np.uint8)
        self.chain = np.arange(1, chunks + 1, dtype=np.uint32)
        self.head = np.full(held, NONE, np.uint32)
        self.generation = np.zeros(held, np.uint32)  # the row's when it was named
        self.free = np.zeros(1 if chunks else 0, np.int64)
        if chunks:
            self.chain[-1] = NONE

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything it holds, by name."""
        return {
            "text": self.text,
            "chain": self.chain,
            "head": self.head,
            "generation": self.generation,
            "free": self.free,
        }

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def has(self, row: int) -> bool:
        """Whether `row` has a name."""
        return bool(self.head[row] != NONE)

    def put(self, row: int, value: Any, generation: int) -> bool:
        """Keep `value` as the name of `row`, which has none; False, and nothing kept, where there is no room."""
        payload = msgspec.msgpack.encode(_plain(value))
        payload = len(payload).to_bytes(4, "little") + payload
        places: list[int] = []
        at = int(self.free[0]) if len(self.free) else NONE
        while at != NONE and len(places) * CHUNK < len(payload):
            places.append(at)
            at = int(self.chain[at])
        if len(places) * CHUNK < len(payload):
            return False
        self.free[0] = at
        self.chain[places[-1]] = NONE
        raw = np.zeros(len(places) * CHUNK, np.uint8)
        raw[: len(payload)] = np.frombuffer(payload, np.uint8)
        self.text[places] = raw.reshape(-1, CHUNK)
        self.head[row], self.generation[row] = places[0], generation
        return True

    def id_of(self, row: int, key: U64, field: int) -> Any:
        """The id of `row`, whose key is `key: uint64[2]`: the key's own number, else the name; None where there is neither."""
        return int(key[0].view(np.int64)) if is_whole_number(key, field) else self.get(row)

    def get(self, row: int) -> Any:
        """The name of `row`, None where it has none."""
        places = self._places(row)
        if not places:
            return None
        raw = self.text[places].tobytes()
        return _thick(msgspec.msgpack.decode(raw[4 : 4 + int.from_bytes(raw[:4], "little")]))

    def drop_stale(self, generations: npt.NDArray[np.uint32]) -> None:
        """Clear the names of rows that were given up since they were named; generations: uint32[R]."""
        if len(self.head):
            for row in np.flatnonzero((self.head != NONE) & (self.generation != generations)).tolist():
                self._drop(row)

    def _drop(self, row: int) -> None:
        places = self._places(row)
        if places:
            self.text[places] = 0
            self.chain[places[-1]] = np.uint32(self.free[0])
            self.free[0] = places[0]
            self.head[row] = NONE

    def _places(self, row: int) -> list[int]:
        places: list[int] = []
        at = int(self.head[row]) if len(self.head) else NONE
        while at != NONE and len(places) < len(self.text):
            places.append(at)
            at = int(self.chain[at])
        return places


def _plain(value: Any) -> Any:
    """What msgpack can say: a number beyond 64 bits as a list with its digits."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return [str(value)]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass"), "s"
    return value


def _thick(value: Any) -> Any:
    if isinstance(value, list):
        return value[0].decode("utf-8", "surrogatepass") if len(value) == 2 else int(value[0])
    return value
