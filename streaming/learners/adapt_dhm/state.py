"""What an `AdaptDHMClassifier` keeps: weights, optimiser, ids, pending labels, detectors and counters, as one file of `tensors`.

In the flow: a job attaches the bytes to its commit. `FORMAT` is raised when what is kept changes; earlier ones stay readable (golden files in
the tests). What is restored goes on to the last bit: random numbers, step counts and what waits are all there.
"""

from typing import Any, Final

import msgspec
import torch

from headrace.streaming.learners import tensors
from headrace.streaming.learners.adapt_dhm.fields import Fields
from headrace.streaming.learners.adapt_dhm.pending import Counts, Impressions
from headrace.streaming.learners.errors import BadCheckpoint, LearnerError
from headrace.streaming.learners.tensors import like, under

FORMAT: Final = 3
RELATIVE: Final = 3
"""Until then a context field of many values counted for less beside no other field too."""
LEARNER: Final = "adapt-dhm"
COUNTERS: Final = ("version", "n_learned", "n_missing", "n_unlabelled", "n_seen")
_FRESH: Final = ("keys", "numbers", "labels")
_MOMENTS: Final = ("first", "second", "steps")


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands beside the tensors. fields: ids and numbers of the network, null where there is none yet."""

    format: int
    learner: str
    params: dict[str, Any]
    fields: tuple[list[str], list[str]] | None
    domains: list[str]
    counters: dict[str, int]
    counts: Counts
    watched: tuple[int, int]
    store_random: dict[str, str]
    blake3: str


_KEPT = msgspec.json.Decoder(Kept)


def dump(model: Any) -> bytes:
    """Write the state; equal states give equal bytes."""
    arrays = _arrays(model)
    network = model.model
    kept = Kept(
        format=FORMAT,
        learner=LEARNER,
        params=dict(model._get_params()),
        fields=None if model.fields is None else (list(model.fields.ids), list(model.fields.numbers)),
        domains=model.domains,
        counters={name: getattr(model, name) for name in COUNTERS},
        counts=model.pending.counts,
        watched=(model.watch.rows, model.watch.last_alarm),
        store_random={} if network is None else tensors.random_state(network.table.store.random),
        blake3=tensors.digest(arrays),
    )
    return tensors.pack(kept, arrays)


def load(cls: Any, data: bytes) -> Any:
    """A `cls` with what `dump` wrote in it. Raises BadCheckpoint, and returns nothing, for any other bytes."""
    kept, arrays = tensors.unpack(data, _KEPT, LEARNER, FORMAT)
    for name, array in arrays.items():
        if name.startswith(("net.", "adam.", "store.fp32")):
            tensors.must_be_finite({name: array}, (name,))
    try:
        model = cls(**{name: _tuples(value) for name, value in kept.params.items()})
        if set(kept.counters) != set(COUNTERS):
            raise BadCheckpoint(
                f"expected the counters {', '.join(COUNTERS)}, came {', '.join(kept.counters)}"
            )
        for name, value in kept.counters.items():
            setattr(model, name, value)
        model.domains = kept.domains
        if kept.fields is not None:
            network = model.build(Fields(tuple(kept.fields[0]), tuple(kept.fields[1])))
            _restore_network(network, arrays)
            if kept.format < RELATIVE:
                network.table.count_relatively()
            tensors.restore_random(network.table.store.random, kept.store_random)
        for name, mine in _watch_arrays(model.watch).items():
            mine[...] = like(arrays, f"watch.{name}", mine)
        model.watch.rows, model.watch.last_alarm = kept.watched
        if "fresh.keys" in arrays:
            model.fresh = tuple(arrays[f"fresh.{name}"] for name in _FRESH)
        waiting = under(arrays, "pending.")
        rows = Impressions(**{name: waiting[name] for name in Impressions._fields})
        n = len(rows.time)
        if any(len(column) != n for column in rows):
            raise BadCheckpoint("the columns of pending impressions are not equally long")
        model.pending.restore(rows, kept.counts)
    except BadCheckpoint:
        raise
    except (KeyError, TypeError, ValueError, LearnerError) as error:
        raise BadCheckpoint(f"not a state of {LEARNER!r}: {error!r}") from error
    return model


def _tuples(value: Any) -> Any:
    """A parameter as it was: JSON has lists where it had tuples, and no parameter is a list."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _arrays(model: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = {f"watch.{name}": array for name, array in _watch_arrays(model.watch).items()}
    arrays |= {f"pending.{name}": array for name, array in model.pending.all()._asdict().items()}
    if model.fresh is not None:
        arrays |= {f"fresh.{name}": array for name, array in zip(_FRESH, model.fresh, strict=True)}
    network = model.model
    if network is None:
        return arrays
    arrays |= {f"store.{name}": array for name, array in network.table.store.arrays._asdict().items()}
    arrays |= {f"buffer.{name}": tensor.numpy().copy() for name, tensor in network.named_buffers()}
    for name, parameter in network.named_parameters():
        arrays[f"net.{name}"] = parameter.detach().numpy().copy()
    for name, moments in network.optimiser.state.items():
        arrays |= {f"adam.{part}.{name}": array for part, array in zip(_MOMENTS, moments, strict=True)}
    return arrays


def _restore_network(network: Any, arrays: dict[str, Any]) -> None:
    held = under(arrays, "store.")
    network.table.store.restore(held)
    for name, tensor in network.named_buffers():
        tensor.copy_(torch.from_numpy(like(arrays, f"buffer.{name}", tensor.numpy()).copy()))
    for name, parameter in network.named_parameters():
        plain = parameter.detach().numpy()
        parameter.data.copy_(torch.from_numpy(like(arrays, f"net.{name}", plain).copy()))
    for name, moments in network.optimiser.state.items():
        for part, mine in zip(_MOMENTS, moments, strict=True):
            mine[...] = like(arrays, f"adam.{part}.{name}", mine)


def _watch_arrays(watch: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = watch.adwins._asdict()
    return arrays | {"alarms": watch.alarms}
