"""`Recommender`: the newest snapshot of a `DSLRecommender`, to be asked and nothing else; torch and no stream.

In the flow: `Recommender.load(path)` in a serving process, or in an executor that scores rows. Items are held packed, grouped by how many
blocks they have, so that scoring the catalogue is one dense product per group over the blocks that are there.
It needs neither river nor pandas nor Spark, and learns nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.streaming.learners.dynamic_sparse import state
from headrace.streaming.learners.dynamic_sparse.state import ITEM, USER
from headrace.streaming.learners.embedding.export import Packed, pack
from headrace.streaming.learners.embedding.layout import Layout
from headrace.streaming.learners.embedding.names import Names
from headrace.streaming.learners.embedding.seen import SeenPairs
from headrace.streaming.learners.embedding.store import EmbeddingStore
from headrace.streaming.learners.errors import BadCheckpoint, LearnerError
from headrace.streaming.learners.tensors import under


class Recommender(torch.nn.Module):
    """Scores and recommendations from the bytes of a checkpoint; see `load`. Raises BadCheckpoint."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        kept, arrays = state.read(data)
        try:
            held = under(arrays, "store.")
            layout = Layout(
                rows=len(held["blocks"]),
                n_blocks=len(held["chain"]),
                max_blocks=int(kept.params["max_blocks"]),
                code=kept.params["code"],
                door=len(held["door"]),
                counted=bool(kept.params.get("filter_newcomers")),
            )
            self._store = EmbeddingStore(layout, half_life=kept.params["half_life"] or float("inf"))
            self._store.restore(held)
            self._names = Names(0, 0)
            for name in self._names.arrays:
                setattr(self._names, name, arrays[f"names.{name}"])
            self._seen = SeenPairs(0)
            self._seen.table = arrays["seen"]
        except (KeyError, TypeError, ValueError, LearnerError) as error:
            if isinstance(error, BadCheckpoint):
                raise
            raise BadCheckpoint(f"not a state of {state.LEARNER!r}: {error!r}") from error
        self.items: Packed = pack(self._store, self._store.rows_in(ITEM))
        self._popular = torch.from_numpy(self._store.aged_touches(kept.now)[self.items.rows]).float()
        self.n_learned = kept.counters["n_learned"]

    @classmethod
    def load(cls, path: Path | str) -> "Recommender":
        """The recommender of a checkpoint file. Raises BadCheckpoint, FileNotFoundError."""
        return cls(Path(path).read_bytes())

    @property
    def item_ids(self) -> list[Any]:
        """The id of each item, in the order of `items.rows`."""
        return [self._item(place) for place in range(len(self.items.rows))]

    def forward(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of every item for user rows `users: int64[B]`, `float32[B, I]` in the order of `items.rows`."""
        width = self._store.layout.max_blocks
        queries = torch.from_numpy(self._store.gather(users.numpy().astype(np.uint32), width))  # (B, 8 * max)
        return self.items.score(queries)  # (B, 8 * max) x (8 * n, I_n), each n -> (B, I)

    def recommend_many(self, users: Sequence[Any], k: int = 10, exclude_seen: bool = True) -> list[list[Any]]:
        """As `DSLRecommender.recommend_many`: the same answers from the same state."""
        if k < 1:
            raise ValueError(f"expected k of at least 1, came {k}")
        rows = self._store.known_rows(users, USER)
        found: list[list[Any]] = []
        for start in range(0, len(rows), 256):
            part = rows[start : start + 256]
            scores = self(torch.from_numpy(part.astype(np.int64)))
            scores[torch.from_numpy(part == 0)] = self._popular
            if exclude_seen:
                met = self._seen.met(part, self.items.rows, self._store.arrays.generation)
                scores[torch.from_numpy(met)] = -torch.inf
            best, places = torch.sort(scores, dim=1, descending=True, stable=True)
            best, places = best[:, :k], places[:, :k]
            for values, at in zip(best.tolist(), places.tolist(), strict=True):
                found.append(
                    [self._item(place) for value, place in zip(values, at, strict=True) if value > -np.inf]
                )
        return found

    def _item(self, place: int) -> Any:
        row = int(self.items.rows[place])
        return self._names.id_of(row, self._store.arrays.keys[row], ITEM)
