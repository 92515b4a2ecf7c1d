"""A recommender as one file: tensors in safetensors, everything else as typed JSON in its header; written whole or not at all.

In the flow: a job attaches the bytes to its commit, a user writes a file. `format` is raised when what is kept changes, earlier ones stay
readable (golden files in the tests). Nothing names a class or is executed on load. The tensors' blake3 stands in the header, so that
damage is found before a value is believed.
"""

import os
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from blake3 import blake3
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from headrace.streaming.learners.dynamic_sparse.explore import Explorer, Schedule
from headrace.streaming.learners.errors import BadCheckpoint, LearnerError

FORMAT: Final = 1
LEARNER: Final = "dsl-recommender"
USER, ITEM = 0, 1
"""The fields of the table."""
_KEY: Final = "headrace"


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


def dump(model: Any) -> bytes:
    """Write the model's state; equal states give equal bytes."""
    arrays = _arrays(model)
    params = dict(model._get_params())
    params.pop("schedule")
    params["half_life"] = None if params["half_life"] == float("inf") else params["half_life"]
    random = model._store.random.bit_generator.state
    kept = Kept(
        format=FORMAT,
        learner=LEARNER,
        params=params,
        schedule=model.schedule,
        explorer=model._explorer,
        counters={name: getattr(model, name) for name in ("n_learned", "n_refused", "n_unnamed")},
        now=model._now,
        # 128-bit numbers, which JSON readers round: as text.
        store_random={name: str(value) for name, value in random["state"].items()}
        | {"spare": f"{random['has_uint32']} {random['uinteger']}"},
        blake3=_digest(arrays),
    )
    return save_tensors(arrays, metadata={_KEY: msgspec.json.encode(kept).decode()})


def load(cls: Any, data: bytes) -> Any:
    """A `cls` with what `dump` wrote in it. Raises BadCheckpoint, and returns nothing, for any other bytes."""
    kept, arrays = read(data)
    try:
        params = dict(kept.params)
        if params.get("half_life") is None:
            params["half_life"] = float("inf")
        model = cls(**params, schedule=kept.schedule)
        model._store.restore(under(arrays, "store."))
        for name, mine in model._names.arrays.items():
            mine[...] = _like(arrays, f"names.{name}", mine)
        model._seen.table[...] = _like(arrays, "seen", model._seen.table)
        model._random[...] = _like(arrays, "random", model._random)
        model._explorer, model._now = kept.explorer, kept.now
        for name, value in kept.counters.items():
            if name not in ("n_learned", "n_refused", "n_unnamed"):
                raise BadCheckpoint(f"unknown counter {name!r}")
            setattr(model, name, value)
        numbers = kept.store_random
        state = model._store.random.bit_generator.state
        has, spare = map(int, numbers["spare"].split())
        state |= {
            "state": {"state": int(numbers["state"]), "inc": int(numbers["inc"])},
            "has_uint32": has,
            "uinteger": spare,
        }
        model._store.random.bit_generator.state = state
    except BadCheckpoint:
        raise
    except (KeyError, TypeError, ValueError, LearnerError) as error:
        raise BadCheckpoint(f"not a state of {LEARNER!r}: {error!r}") from error
    return model


def read(data: bytes) -> tuple[Kept, dict[str, Any]]:
    """The header and the tensors, checked against each other and for finite weights. Raises BadCheckpoint."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = (
            msgspec.json.decode(data[8 : 8 + length], type=dict[str, Any])
            if len(data) >= 8 + length > 8
            else {}
        )
        written = header["__metadata__"][_KEY]
    except (KeyError, TypeError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadCheckpoint(
            f"expected a safetensors file with a {_KEY!r} header, came {len(data)} bytes that begin {bytes(data[:8])!r}; "
            "it is cut short, or another program's"
        ) from error
    try:
        kept = msgspec.json.decode(written, type=Kept)
        arrays = load_tensors(data)
    except (msgspec.MsgspecError, SafetensorError, ValueError) as error:
        raise BadCheckpoint(
            f"not a checkpoint this release writes: {error}; go back to an earlier one"
        ) from error
    if kept.learner != LEARNER or kept.format > FORMAT:
        raise BadCheckpoint(
            f"expected {LEARNER!r} of format {FORMAT} or earlier, came {kept.learner!r} of format {kept.format}; "
            "read it with the release that wrote it"
        )
    if _digest(arrays) != kept.blake3:
        raise BadCheckpoint(
            "the tensors are damaged: their blake3 is not the header's; go back to an earlier checkpoint"
        )
    for name in ("store.fp32", "store.scale", "store.square"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise BadCheckpoint(f"{name} holds NaN or infinite numbers; go back to an earlier checkpoint")
    return kept, arrays


def write(model: Any, path: Path | str) -> None:
    """Write the model's state to `path`, durably: under another name, synced, then renamed."""
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    with fresh.open("wb") as file:
        file.write(dump(model))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _arrays(model: Any) -> dict[str, Any]:
    arrays = {f"store.{name}": array for name, array in model._store.arrays._asdict().items()}
    arrays |= {f"names.{name}": array for name, array in model._names.arrays.items()}
    return arrays | {"seen": model._seen.table, "random": model._random}


def _digest(arrays: dict[str, Any]) -> str:
    hasher = blake3()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        hasher.update(f"{name} {array.dtype.str} {list(array.shape)};".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def under(arrays: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _like(arrays: dict[str, Any], name: str, mine: Any) -> Any:
    found = arrays[name]
    if found.shape != mine.shape or found.dtype != mine.dtype:
        raise ValueError(
            f"array {name!r}: expected {mine.dtype}{list(mine.shape)}, came {found.dtype}{list(found.shape)}"
        )
    return found
