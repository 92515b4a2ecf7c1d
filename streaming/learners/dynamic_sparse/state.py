"""A recommender as one file: tensors in safetensors, everything else as typed JSON in its header; written whole or not at all.

In the flow: a job attaches the bytes to its commit, a user writes a file; `tensors` says what both look like. `format` is raised when what
is kept changes, earlier ones stay readable (golden files in the tests).
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.streaming.learners import tensors
from headrace.streaming.learners.dynamic_sparse.explore import Explorer
from headrace.streaming.learners.dynamic_sparse.schedule import Schedule
from headrace.streaming.learners.errors import BadCheckpoint, LearnerError
from headrace.streaming.learners.tensors import like, under

FORMAT: Final = 3
LEARNER: Final = "dsl-recommender"
USER, ITEM = 0, 1
"""The fields of the table."""


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands beside the tensors."""

    format: int
    learner: str
    params: dict[str, Any]
    schedule: Schedule | None
    explorer: Explorer
    counters: dict[str, int]
    now: float
    store_random: dict[str, Any]
    blake3: str


_KEPT = msgspec.json.Decoder(Kept)


def dump(model: Any) -> bytes:
    """Write the model's state; equal states give equal bytes."""
    arrays = _arrays(model)
    params = dict(model._get_params())
    params.pop("schedule")
    params["half_life"] = None if params["half_life"] == float("inf") else params["half_life"]
    kept = Kept(
        format=FORMAT,
        learner=LEARNER,
        params=params,
        schedule=model.schedule,
        explorer=model._explorer,
        counters={name: getattr(model, name) for name in ("n_learned", "n_refused", "n_unnamed")},
        now=model.now,
        store_random=tensors.random_state(model._store.random),
        blake3=tensors.digest(arrays),
    )
    return tensors.pack(kept, arrays)


def load(cls: Any, data: bytes) -> Any:
    """A `cls` with what `dump` wrote in it. Raises BadCheckpoint, and returns nothing, for any other bytes."""
    kept, arrays = read(data)
    try:
        params = dict(kept.params)
        if params.get("half_life") is None:
            params["half_life"] = float("inf")
        params.setdefault("first_blocks", 1)  # format 1
        params.setdefault("filter_newcomers", False)  # formats 1 and 2
        rows = params.pop("rows")
        # How many are the default is a release's own; these are those of the arrays.
        model = cls(
            rows=len(arrays["store.keys"]) if rows is None else rows, **params, schedule=kept.schedule
        )
        model.rows = rows
        model._store.restore(under(arrays, "store."))
        for name, mine in model._names.arrays.items():
            mine[...] = like(arrays, f"names.{name}", mine)
        model._seen.table[...] = like(arrays, "seen", model._seen.table)
        model._random[...] = like(arrays, "random", model._random)
        model._explorer, model.now = kept.explorer, kept.now
        for name, value in kept.counters.items():
            if name not in ("n_learned", "n_refused", "n_unnamed"):
                raise BadCheckpoint(f"unknown counter {name!r}")
            setattr(model, name, value)
        tensors.restore_random(model._store.random, kept.store_random)
    except BadCheckpoint:
        raise
    except (KeyError, TypeError, ValueError, LearnerError) as error:
        raise BadCheckpoint(f"not a state of {LEARNER!r}: {error!r}") from error
    return model


def read(data: bytes) -> tuple[Kept, dict[str, Any]]:
    """The header and the tensors, checked against each other and for finite weights. Raises BadCheckpoint."""
    kept, arrays = tensors.unpack(data, _KEPT, LEARNER, FORMAT)
    tensors.must_be_finite(arrays, ("store.fp32", "store.scale", "store.square"))
    return kept, arrays


def write(model: Any, path: Path | str) -> None:
    """Write the model's state to `path`, durably, whole or not at all."""
    tensors.write(dump(model), path)


def _arrays(model: Any) -> dict[str, Any]:
    arrays = {f"store.{name}": array for name, array in model._store.arrays._asdict().items()}
    arrays |= {f"names.{name}": array for name, array in model._names.arrays.items()}
    return arrays | {"seen": model._seen.table, "random": model._random}
