"""`Noted`: impressions as an executor noted them, on their way to the driver.

In the flow: made by a snapshot's `note`, taken by the learner's `take`. Tensors and typed JSON, as everything that is read here.
"""

import json
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from headrace.streaming.learners.adapt_dhm.pending import Impressions

OTHER: Final = "(other)"
"""The domain of whatever has none of its own."""


class Noted(NamedTuple):
    """Impressions as they arrived. domains: names of the places in `rows.domain`. no_id: rows left out, without an id or a time."""

    rows: Impressions
    domains: list[str]
    no_id: int
    missing: int

    def to_bytes(self) -> bytes:
        """For the way from an executor to the driver."""
        said = {"domains": json.dumps(self.domains), "counts": f"{self.no_id} {self.missing}"}
        return save_tensors(
            {name: np.ascontiguousarray(array) for name, array in self.rows._asdict().items()}, metadata=said
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Noted":
        """What `to_bytes` wrote."""
        length = int.from_bytes(data[:8], "little")
        said = json.loads(data[8 : 8 + length])["__metadata__"]
        no_id, missing = map(int, said["counts"].split())
        return cls(Impressions(**load_tensors(data)), json.loads(said["domains"]), no_id, missing)


def domain_places(column: pa.Array) -> tuple[npt.NDArray[np.int64], list[str]]:
    """A column's domains as places among their names, `int64[n]`, and the names; null is `OTHER`."""
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    names = [*map(str, coded.dictionary.to_pylist()), OTHER]
    places = coded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)
    return places.astype(np.int64), names
