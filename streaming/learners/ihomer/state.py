"""A learner's whole state as plain data and back, in the envelope of `headrace.streaming.learners.checkpoint`.

Arrays are kept by name, everything else as one JSON document in an array of bytes: hyper-parameters, names, counters, the shape of
both trees, events. Nothing names a class or is executed on load; a checkpoint is read into a freshly made model, whose arrays say
which dtype they want. `VERSION` is raised when what is kept changes; earlier ones stay readable (golden files in the tests).
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from headrace.streaming.learners import checkpoint
from headrace.streaming.learners.errors import BadCheckpoint
from headrace.streaming.learners.ihomer.clustered import Clustered
from headrace.streaming.learners.ihomer.core import Core, Event
from headrace.streaming.learners.ihomer.global_tree import GlobalTree, Node
from headrace.streaming.learners.ihomer.label_odac import Change, LabelODAC
from headrace.streaming.learners.ihomer.label_odac import Node as Cluster
from headrace.streaming.learners.ihomer.rows import Refused
from headrace.streaming.learners.ihomer.watching import Background

VERSION: Final = 1
LEARNER: Final = "ihomer"
_JSON: Final = "json"
_WIDER: Final = {"i4": np.int64, "u8": np.int64, "b1": np.uint8}

Arrays = dict[str, Any]


def dump(model: Any) -> bytes:
    """Write the model's state; equal states give equal bytes."""
    arrays: Arrays = {}
    document = {
        "params": _plain_params(model),
        "n_refused": model.n_refused,
        "refused": [[refused.row, refused.column, refused.why] for refused in model.refused],
        "features": model._features.names,
        "labels": model._labels.names,
        "odac": _put_odac(arrays, model._odac),
        "core": None if model._core is None else _put_core(arrays, model._core),
    }
    arrays[_JSON] = np.frombuffer(msgspec.json.encode(document), np.uint8)
    return checkpoint.dump(checkpoint.State(LEARNER, VERSION, model.n_learned, {}, arrays))


def load(cls: Any, data: bytes) -> Any:
    """A `cls` with what `dump` wrote in it. Raises BadCheckpoint."""
    kept = checkpoint.load(data, LEARNER)
    if kept.version > VERSION:
        raise BadCheckpoint(
            f"expected version {VERSION} or earlier, came {kept.version}: read it with a newer release"
        )
    try:
        document = msgspec.json.decode(kept.arrays[_JSON].tobytes())
        params = dict(document["params"])
        if isinstance(params["partition"], list):
            params["partition"] = [set(members) for members in params["partition"]]
        params["without"] = set(params["without"]) if params.get("without") else None
        model = cls(**params)
        model.n_learned, model.n_refused = kept.n_learned, document["n_refused"]
        model.refused.extend(Refused(*refused) for refused in document["refused"])
        for name in document["features"]:
            model._features.add(name)
        for name in document["labels"]:
            model._labels.add(name)
        _take_odac(kept.arrays, document["odac"], model._odac)
        if document["core"] is not None:
            model._core = model._begin(document["core"]["sparse"])
            model._core.given = model._given()
            _take_core(kept.arrays, document["core"], model._core)
    except (KeyError, TypeError, ValueError, IndexError, msgspec.MsgspecError) as error:
        raise BadCheckpoint(f"not a state of {LEARNER!r}: {error!r}") from error
    return model


def _plain_params(model: Any) -> dict[str, Any]:
    params = dict(model._get_params())
    params["without"] = sorted(params["without"] or ())
    if not isinstance(params["partition"], str):
        params["partition"] = [sorted(members, key=str) for members in params["partition"]]
    return params


def _put(arrays: Arrays, name: str, value: Any) -> None:
    """Keep an array, or each of a tuple's or list's under its place."""
    if isinstance(value, tuple | list):
        for at, part in enumerate(value):
            _put(arrays, f"{name}.{at}", part)
    else:
        arrays[name] = value.astype(_WIDER.get(value.dtype.str[1:], value.dtype))


def _take(arrays: Mapping[str, Any], name: str, like: Any) -> Any:
    """What `_put` kept, in the structure and dtypes of `like`."""
    if isinstance(like, tuple | list):
        parts = [_take(arrays, f"{name}.{at}", part) for at, part in enumerate(like)]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    found = arrays[name]
    if found.ndim != like.ndim:
        raise ValueError(f"array {name!r}: expected {like.ndim} dimensions, came {found.ndim}")
    return np.ascontiguousarray(found.astype(like.dtype))


def _put_all(arrays: Arrays, name: str, holder: Any, attributes: tuple[str, ...]) -> None:
    for attribute in attributes:
        _put(arrays, f"{name}.{attribute}", getattr(holder, attribute))


def _take_all(arrays: Mapping[str, Any], name: str, holder: Any, attributes: tuple[str, ...]) -> None:
    for attribute in attributes:
        setattr(holder, attribute, _take(arrays, f"{name}.{attribute}", getattr(holder, attribute)))


_COUNTS = ("keys", "counts", "single")


def _put_odac(arrays: Arrays, odac: LabelODAC) -> dict[str, Any]:
    _put_all(arrays, "odac", odac.counts, _COUNTS)
    return {
        "n_seen": odac.n_seen,
        "n_on": odac.n_on,
        "labels": odac.labels,
        "next": odac._next,
        "turn": odac._turn,
        "home": odac._home,
        "unsettled": sorted(odac._unsettled),
        "counts": [odac.counts.unit, odac.counts.rows, odac.counts.used],
        "nodes": [
            [key, node.parent, node.born, node.members, node.children, node.gain, node.eps]
            for key, node in odac.nodes.items()
        ],
        "changes": [[change.row, change.kind, change.before, change.after] for change in odac.changes],
    }


def _take_odac(arrays: Mapping[str, Any], kept: dict[str, Any], odac: LabelODAC) -> None:
    _take_all(arrays, "odac", odac.counts, _COUNTS)
    odac.n_seen, odac.n_on, odac._next, odac._turn = kept["n_seen"], kept["n_on"], kept["next"], kept["turn"]
    odac.labels, odac._home, odac._unsettled = kept["labels"], kept["home"], set(kept["unsettled"])
    odac._index = {label: at for at, label in enumerate(odac.labels)}
    odac.counts.unit, odac.counts.rows, odac.counts.used = kept["counts"]
    odac.nodes = {
        key: Cluster(
            parent, born, members, None if children is None else (children[0], children[1]), gain, eps
        )
        for key, parent, born, members, children, gain, eps in kept["nodes"]
    }
    odac.changes = [
        Change(row, kind, tuple(map(tuple, before)), tuple(map(tuple, after)))
        for row, kind, before, after in kept["changes"]
    ]


_CORE = ("moments", "persist", "cuts")
_ENSEMBLE = ("blocks", "cuts", "weights", "squares", "random")


def _put_core(arrays: Arrays, core: Core) -> dict[str, Any]:
    _put_all(arrays, "core", core, _CORE)
    _put_all(arrays, "decision", core.decision, ("by_f1", "by_subset"))
    document: dict[str, Any] = {
        "n": core.n,
        "sparse": core.sparse,
        "features": core.features,
        "labels": core.labels,
        "partition": core._partition,
        "events": [[event.row, event.kind, event.labels] for event in core.events],
        "learner": _put_learner(arrays, "learner", core.learner),
        "ensemble": None,
        "watch": None,
    }
    if core.ensemble is not None:
        _put_all(arrays, "ensemble", core.ensemble, _ENSEMBLE)
        _put(arrays, "ring", [part[: core.ensemble.held] for part in core.ensemble.ring])
        document["ensemble"] = [core.ensemble.head, core.ensemble.held]
    if core.labelsets is not None:
        sets = core.labelsets
        keys = [*sets.places, *(key for key in sets.counts if key not in sets._places)]
        members = [np.frombuffer(key, np.int32) for key in keys]
        arrays["sets.members"] = np.concatenate([*members, np.zeros(0, np.int32)]).astype(np.int64)
        arrays["sets.sizes"] = np.array([len(on) for on in members], np.int64)
        arrays["sets.counts"] = np.array([sets.counts[key] for key in keys], np.int64)
        arrays["sets.ons"] = sets.ons
        document["labelsets"] = [sets.t, len(sets.places)]
    if core.watch is not None:
        _put_all(arrays, "watch", core.watch, ("adwins", "rising"))
        for at, background in enumerate(core.watch.backgrounds):
            _put_all(arrays, f"background{at}", background, ("labels", "block", "cuts"))
        document["watch"] = {
            "clusters": core.watch.clusters,
            "backgrounds": [[b.rows, b.mistakes, b.mistakes_deciding] for b in core.watch.backgrounds],
        }
    return document


def _take_core(arrays: Mapping[str, Any], kept: dict[str, Any], core: Core) -> None:
    ring = kept["ensemble"] or []
    if not ring and core.ensemble is not None:  # it was let go when labels became too many
        core.release_ensemble()
    core.n, core._partition = kept["n"], kept["partition"]
    core.features, core.labels = kept["features"], kept["labels"]
    core._z = np.zeros(core.labels, np.float32)
    core.events = [Event(row, kind, tuple(labels)) for row, kind, labels in kept["events"]]
    _take_all(arrays, "core", core, _CORE)
    _take_all(arrays, "decision", core.decision, ("by_f1", "by_subset"))
    core.learner = _take_learner(arrays, "learner", kept["learner"], core.learner, core)
    if core.ensemble is not None:
        _take_all(arrays, "ensemble", core.ensemble, _ENSEMBLE)
        core.ensemble.head, core.ensemble.held = ring
        core.ensemble.refill(_take(arrays, "ring", core.ensemble.ring))
        core.ensemble.grow(core.features, core.labels)
    if core.labelsets is not None:
        t, placed = map(int, kept["labelsets"])
        members, ends = arrays["sets.members"].astype(np.int32), np.cumsum(arrays["sets.sizes"])
        keys = [on.tobytes() for on in np.split(members, ends)[:-1]]
        counts = dict(zip(keys, arrays["sets.counts"].tolist(), strict=True))
        core.labelsets.restore(counts, t, arrays["sets.ons"], keys[:placed])
    if core.watch is not None:
        _take_all(arrays, "watch", core.watch, ("adwins", "rising"))
        core.watch.clusters = kept["watch"]["clusters"]
        for at, (rows, mistakes, deciding) in enumerate(kept["watch"]["backgrounds"]):
            background = Background.fresh([], core.features)
            _take_all(arrays, f"background{at}", background, ("labels", "block", "cuts"))
            background.rows, background.mistakes, background.mistakes_deciding = rows, mistakes, deciding
            core.watch.backgrounds.append(background)


_CLUSTERED = ("block", "meta", "u", "gu", "u_meta", "gu_meta", "positives", "_order")
_STATISTICS = ("n_on", "total", "total2", "on", "on2")


def _put_learner(arrays: Arrays, name: str, learner: Any) -> Any:
    if isinstance(learner, GlobalTree):
        nodes = [_put_node(arrays, f"{name}.{at}", node) for at, node in enumerate(learner.root.every())]
        return {"nodes": nodes, "counts": [learner.n_splits, learner.n_swaps, learner.n_given_up]}
    if isinstance(learner, Clustered):
        _put_all(arrays, name, learner, _CLUSTERED)
        return {"partition": learner.partition}
    _put(arrays, f"{name}.block", learner.block)
    return {}


def _put_node(arrays: Arrays, name: str, node: Node) -> dict[str, Any]:
    _put(arrays, f"{name}.adwin", node.adwin)
    kept: dict[str, Any] = {
        "feature": node.feature,
        "threshold": node.threshold,
        "inner": node.children is not None,
        "other": node.other is not None,
        "sums": [node.rows, node.loss, node.loss_other],
    }
    if node.statistics is not None:
        _put_all(arrays, f"{name}.statistics", node.statistics, _STATISTICS)
        kept["learner"] = _put_learner(arrays, f"{name}.learner", node.learner)
        kept["n"], kept["labelsets"] = (
            node.statistics.n,
            sorted(key.hex() for key in node.statistics.labelsets),
        )
    return kept


def _take_learner(arrays: Mapping[str, Any], name: str, kept: Any, fresh: Any, core: Core) -> Any:
    if isinstance(fresh, GlobalTree):
        fresh.features, fresh.labels = core.features, core.labels
        fresh.n_splits, fresh.n_swaps, fresh.n_given_up = kept["counts"]
        nodes = iter(enumerate(kept["nodes"]))
        fresh.root = _take_node(arrays, name, nodes, core)
    elif isinstance(fresh, Clustered):
        fresh.restructure(kept["partition"])
        _take_all(arrays, name, fresh, _CLUSTERED)
    else:
        fresh.block = _take(arrays, f"{name}.block", fresh.block)
        fresh.grow(core.features, core.labels)
    return fresh


def _take_node(arrays: Mapping[str, Any], name: str, nodes: Any, core: Core) -> Node:
    at, kept = next(nodes)
    here = f"{name}.{at}"
    node = Node(None, None, kept["feature"], kept["threshold"])
    node.adwin = _take(arrays, f"{here}.adwin", node.adwin)
    node.rows, node.loss, node.loss_other = kept["sums"]
    if kept["inner"]:
        node.children = (_take_node(arrays, name, nodes, core), _take_node(arrays, name, nodes, core))
    else:
        leaf: Any = core.learner._leaf(core.fresh())
        node.learner, node.statistics = leaf.learner, leaf.statistics
        node.learner = _take_learner(arrays, f"{here}.learner", kept["learner"], node.learner, core)
        _take_all(arrays, f"{here}.statistics", leaf.statistics, _STATISTICS)
        leaf.statistics.n = kept["n"]
        leaf.statistics.labelsets = {bytes.fromhex(key) for key in kept["labelsets"]}
    if kept["other"]:
        node.other = _take_node(arrays, name, nodes, core)
    return node
