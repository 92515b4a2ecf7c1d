"""One file for what a torch or numpy learner has to keep: tensors in safetensors, the rest as typed JSON in its header.

In the flow: under the `state` modules of the learners, which say what is kept. Nothing names a class or is executed on load. The tensors'
blake3 stands in the header, so that damage is found before a value is believed. Equal contents give equal bytes.
"""

import os
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec
import numpy as np
from blake3 import blake3
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from headrace.streaming.learners.errors import BadCheckpoint

_KEY: Final = "headrace"


class Header(Protocol):
    """What every learner's header has, beside `learner` and `format`."""

    @property
    def blake3(self) -> str: ...


H = TypeVar("H", bound=Header)


def pack(header: Any, arrays: dict[str, Any]) -> bytes:
    """The file's bytes; `header` is a msgspec struct with the digest of `arrays` in it."""
    return save_tensors(arrays, metadata={_KEY: msgspec.json.encode(header).decode()})


def unpack(
    data: bytes, decoder: msgspec.json.Decoder[H], learner: str, newest: int
) -> tuple[H, dict[str, Any]]:
    """The header and the tensors, checked against each other. Raises BadCheckpoint."""
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
        said = msgspec.json.decode(written, type=dict[str, Any])
        if said.get("learner") == learner and int(said.get("format", 0)) <= newest:
            kept = decoder.decode(written)
            arrays = load_tensors(data)
        else:
            raise BadCheckpoint(
                f"expected {learner!r} of format {newest} or earlier, came {said.get('learner')!r} of format {said.get('format')}; "
                "read it with the release that wrote it"
            )
    except BadCheckpoint:
        raise
    except (msgspec.MsgspecError, SafetensorError, ValueError, TypeError) as error:
        raise BadCheckpoint(
            f"not a checkpoint this release writes: {error}; go back to an earlier one"
        ) from error
    if digest(arrays) != kept.blake3:
        raise BadCheckpoint(
            "the tensors are damaged: their blake3 is not the header's; go back to an earlier checkpoint"
        )
    return kept, arrays


def must_be_finite(arrays: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raises BadCheckpoint where one of the arrays `names` is there and holds NaN or infinite numbers."""
    for name in names:
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise BadCheckpoint(f"{name} holds NaN or infinite numbers; go back to an earlier checkpoint")


def write(data: bytes, path: Path | str) -> None:
    """Write a file durably, whole or not at all: under another name, synced, then renamed."""
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def digest(arrays: dict[str, Any]) -> str:
    """blake3 of names, types, shapes and bytes."""
    hasher = blake3()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        hasher.update(f"{name} {array.dtype.str} {list(arrays[name].shape)};".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def random_state(random: np.random.Generator) -> dict[str, str]:
    """The state of a PCG64: 128-bit numbers, which JSON readers round, as text."""
    state = random.bit_generator.state
    return {name: str(value) for name, value in state["state"].items()} | {
        "spare": f"{state['has_uint32']} {state['uinteger']}"
    }


def restore_random(random: np.random.Generator, kept: dict[str, str]) -> None:
    """Put a PCG64 where `random_state` found it. Raises KeyError or ValueError."""
    state = dict(random.bit_generator.state)
    has, spare = map(int, kept["spare"].split())
    state |= {
        "state": {"state": int(kept["state"]), "inc": int(kept["inc"])},
        "has_uint32": has,
        "uinteger": spare,
    }
    random.bit_generator.state = state


def under(arrays: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def like(arrays: dict[str, Any], name: str, mine: Any) -> Any:
    """The array `name`, which must be of the type and shape of `mine`. Raises KeyError or ValueError."""
    found = arrays[name]
    if found.shape != mine.shape or found.dtype != mine.dtype:
        raise ValueError(
            f"array {name!r}: expected {mine.dtype}{list(mine.shape)}, came {found.dtype}{list(found.shape)}"
        )
    return found
