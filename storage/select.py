"""The cascade: which encodings a stream gets, and in which order they lie within each other.

The writer asks `choose` once per column, row group and role and writes every page of the group with the answer; `explain`
shows the same decision to people. Cost is bytes times what a byte costs in the profile, plus the time to decode. Sizes
are closed forms of counted `Stats` where an encoding has one; else a sample, runs of consecutive values drawn with a fixed
seed, is encoded for trial, and the streams that come out of that are planned in the same way, to a depth of three.
Equal values give equal files. Nothing here is lossy: quantised storage is the caller's word, never a choice.

Sources: sampling in runs and the recursive picker of BtrBlocks (SIGMOD 2023, section 3); bytes weighed against
decoding as in Nimble's read factors. The nanoseconds are our own measurements (`python -m benchmarks kernels`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from headrace.storage.encodings import ALL, BY_ID, CannotEncode, Encoding, Stats, stats
from headrace.storage.encodings.bitpack import packed_bytes
from headrace.storage.encodings.contract import BLOCK_VALUES, MAX_DEPTH, Array, Bytes
from headrace.storage.encodings.zstd import Zstd

RUNS: Final = 16
RUN_VALUES: Final = 64
TEXT_RUN_BYTES: Final = 1024
LARGEST_SAVING: Final = 0.8
"""What compressors of bytes leave at least a fifth of: a byte that costs more to decode than that is worth is not tried."""
SLACK: Final = 1.01
"""No stream is written larger than so many times its plain bytes."""


@dataclass(frozen=True)
class Profile:
    """What a byte is worth: how many nanoseconds of decoding one byte less in the file may cost."""

    name: str
    ns_per_byte: float
    zstd: Encoding
    in_place: bool = False
    """Erase keys and personal columns get only encodings whose values can be overwritten where they lie."""
    run_values: int = RUN_VALUES
    """Length of the runs of a sample."""
    file_dictionaries: bool = True
    """Whether a column may have one dictionary for the whole file, which every reader of a page must load."""


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile("size", 20.0, Zstd(12), run_values=4 * RUN_VALUES),
        Profile("balanced", 2.0, Zstd(3)),
        Profile("train", 0.3, Zstd(3), file_dictionaries=False),
        Profile("compliance", 2.0, Zstd(3), in_place=True, file_dictionaries=False),
    )
}

# Nanoseconds to decode one value, children not counted, and one byte of output: what costs by the value, such as a
# branch, and what costs by the byte, such as a copy.
_DECODE_NS: Final = {
    "constant": (0.0, 0.02),
    "plain": (0.0, 0.03),
    "bitpack": (0.25, 0.03),
    "pfor": (0.3, 0.03),
    "dictionary": (0.35, 0.03),
    "rle": (0.1, 0.05),
    "delta": (0.2, 0.05),
    "zigzag": (0.1, 0.03),
    "varint": (2.0, 0.0),
    "byte_split": (0.1, 0.05),
    "alp": (0.3, 0.05),
    "bitmap": (0.1, 0.05),
    "sparse_bool": (0.05, 0.03),
    "mainly_constant": (0.2, 0.05),
    "fsst": (0.0, 0.6),
    "zstd": (0.0, 0.9),
}

GATHER_NS: Final = 0.5
"""To fetch one value of a dictionary, when its code is decoded."""

_INTEGERS: Final = (
    "constant",
    "bitpack",
    "plain",
    "pfor",
    "rle",
    "mainly_constant",
    "delta",
    "byte_split",
    "varint",
    "zstd",
)
_BYTES: Final = ("constant", "plain", "bitpack", "pfor", "rle", "zstd")
_BOOLS: Final = ("constant", "bitmap", "sparse_bool", "rle")
_FLOATS: Final = ("constant", "plain", "rle", "alp", "mainly_constant", "byte_split", "zstd")
_TEXT: Final = ("constant", "plain", "fsst", "zstd")
_CODES: Final = ("constant", "dictionary", "pfor", "rle", "byte_split", "zstd")
# Within another encoding: what is left there has lost its structure, so fewer are worth a trial.
_CHILDREN: Final = ("constant", "bitpack", "plain", "pfor", "byte_split", "zstd")
_BY_NAME: Final = {encoding.name: encoding for encoding in ALL}


@dataclass(frozen=True)
class Plan:
    """An encoding and the plans of its children, in the order in which it writes them."""

    encoding: Encoding
    predicted_bytes: int
    """Of the whole stream, when planned at the top; of the sample, within others."""
    decode_ns: float
    children: tuple[Plan, ...] = ()

    def __str__(self) -> str:
        """For people: ``byte_split(zstd(plain), plain)``."""
        inner = ", ".join(map(str, self.children))
        return f"{self.encoding.name}({inner})" if inner else self.encoding.name

    def cost(self, profile: Profile) -> float:
        """What the profile minimises, in nanoseconds."""
        return self.predicted_bytes * profile.ns_per_byte + self.decode_ns


PLAIN: Final = Plan(_BY_NAME["plain"], 0, 0.0)


@dataclass(frozen=True)
class Candidate:
    """One encoding's part in a choice."""

    name: str
    plan: str
    """The encoding with what would lie in it."""
    predicted_bytes: int
    decode_us: float
    chosen: bool


def choose(
    values: Array,
    profile: Profile,
    *,
    kind: str = "values",
    in_place: bool = False,
    only: str | None = None,
    nested: bool = False,
    seed: int = 0,
) -> Plan:
    """How to write `values`.

    Args:
        values: any 1-D array with a dtype in `encodings.DTYPES`.
        profile: what bytes and time are worth.
        kind: "values"; "text" for the bytes of strings; "codes" for entries of a dictionary, where 0 must stay writable.
        in_place: only encodings whose single values can be erased where they lie.
        nested: whether the stream will lie in another encoding, so that less depth is left.
        only: the outermost encoding's name, where the caller insists; what cannot be written so is left to the cascade.
        seed: of the sample.

    Raises:
        UnsupportedArray: another shape or dtype.

    >>> str(choose(np.zeros(100), PROFILES["balanced"]))
    'constant'
    """
    if not len(values):
        return PLAIN
    plans = _plans(values, profile, kind, in_place, seed, depth=int(nested), only=only)
    insisted = [plan for plan in plans if plan.encoding.name == only]
    return min(insisted or plans or [_PACKED], key=lambda plan: plan.cost(profile))


def explain(
    values: Array, profile: Profile, *, kind: str = "values", in_place: bool = False, seed: int = 0
) -> list[Candidate]:
    """How `choose` comes to its answer: one candidate per encoding that can write these values, best first."""
    plans = sorted(_plans(values, profile, kind, in_place, seed), key=lambda plan: plan.cost(profile))
    return [
        Candidate(plan.encoding.name, str(plan), plan.predicted_bytes, plan.decode_ns / 1000, at == 0)
        for at, plan in enumerate(plans)
    ]


def encode(plan: Plan, values: Array) -> tuple[int, bytes]:
    """Write values as planned, or plain where the plan does not fit or would be larger: wire id and payload."""
    number, payload = _encode(plan, values)
    if len(payload) > values.nbytes * SLACK:
        return PLAIN.encoding.id, PLAIN.encoding.encode(values)
    return number, payload


def _encode(plan: Plan, values: Array) -> tuple[int, bytes]:
    children = iter(plan.children)

    def child(inner: Array) -> tuple[int, bytes]:
        return _encode(next(children, _PACKED), inner)

    try:
        return plan.encoding.id, plan.encoding.encode(values, child)
    except CannotEncode:
        # The sample promised what the rest did not keep: a constant, say. Bit-packing takes anything.
        return _PACKED.encoding.id, _PACKED.encoding.encode(values)


_PACKED: Final = Plan(_BY_NAME["bitpack"], 0, 0.0)


def sample(values: Array, seed: int, *, run: int = RUN_VALUES, runs: int = RUNS) -> Array:
    """Runs of consecutive values from all over a stream, one from each equal part of it; all values if they are few."""
    n = len(values)
    if n <= runs * run * 2:
        return values
    part = n // runs
    starts = np.arange(runs) * part + np.random.default_rng(seed).integers(0, part - run + 1, runs)
    if run % BLOCK_VALUES == 0:
        starts -= starts % BLOCK_VALUES
    return np.concatenate([values[start : start + run] for start in starts.tolist()])


@dataclass(frozen=True)
class _Search:
    """One choice under way: the trial encodings below the top."""

    profile: Profile
    in_place: bool

    def best(self, values: Array, depth: int, parent: str) -> Plan:
        """The plan of a child stream, from all of its (few) values."""
        if not len(values):
            return PLAIN
        names = [name for name in _names(values.dtype, "values") if name in _CHILDREN or name in _BOOLS]
        if parent == "zstd":
            # A compressor finds more in bytes than in bits that were packed before it.
            names = ["plain"]
        elif parent == "byte_split":
            names = [name for name in names if name != "byte_split"]
        counted = stats(values, count_distinct=False, count_bit_lengths=True)
        plans = self.plans(values, counted, names, depth)
        return min(plans, key=lambda plan: plan.cost(self.profile), default=PLAIN)

    def plans(self, values: Array, counted: Stats, names: Sequence[str], depth: int) -> Iterator[Plan]:
        """One plan for each encoding that can write these values."""
        for name in names:
            encoding = self.profile.zstd if name == "zstd" else _BY_NAME[name]
            if self.in_place and not encoding.in_place:
                continue
            if encoding.can_encode(counted) and _promising(name, counted, self.profile):
                plan = self.trial(encoding, values, counted, depth)
                if plan is not None:
                    yield plan

    def trial(self, encoding: Encoding, values: Array, counted: Stats, depth: int) -> Plan | None:
        """What `encoding` makes of `values`, by its closed form if it has one."""
        per_value, per_byte = _DECODE_NS[encoding.name]
        own_ns = per_value * len(values) + per_byte * values.nbytes
        size = encoding.size(counted)
        if size is not None and encoding.name not in _COMPOSITE:
            return Plan(encoding, size, own_ns)
        if depth + 1 >= MAX_DEPTH:
            return None
        children: list[Plan] = []

        def child(inner: Array) -> tuple[int, bytes]:
            plan = self.best(inner, depth + 1, encoding.name)
            children.append(plan)
            return _encode(plan, inner)

        try:
            payload = encoding.encode(values, child)
        except CannotEncode:
            return None
        return Plan(
            encoding, len(payload), own_ns + sum(part.decode_ns for part in children), tuple(children)
        )


_COMPOSITE: Final = ("delta", "zigzag", "byte_split", "alp", "sparse_bool", "mainly_constant", "fsst", "zstd")


def _plans(
    values: Array,
    profile: Profile,
    kind: str,
    in_place: bool,
    seed: int,
    depth: int = 0,
    only: str | None = None,
) -> list[Plan]:
    counted = stats(values, count_distinct=False)
    few = sample(values, seed, run=TEXT_RUN_BYTES if kind == "text" else profile.run_values)
    few_counted = stats(few, count_distinct=False, count_bit_lengths=True)
    search = _Search(profile, in_place)
    found = []
    for name in _names(values.dtype, kind):
        encoding = profile.zstd if name == "zstd" else _BY_NAME[name]
        if (
            (in_place and not encoding.in_place)
            or not encoding.can_encode(counted)
            or not (name == only or _promising(name, counted, profile))
        ):
            continue
        # A dictionary's own estimate is of values; these are codes already.
        codes = name == "dictionary" and kind == "codes"
        size = packed_bytes(counted.n, (counted.max or 0).bit_length()) if codes else encoding.size(counted)
        if size is not None and name not in _COMPOSITE:
            per_value, per_byte = _DECODE_NS[name]
            found.append(Plan(encoding, size, per_value * len(values) + per_byte * values.nbytes))
            continue
        if name in ("sparse_bool", "mainly_constant"):
            tried = values  # what is rare is not in a sample, and splitting it off is cheap
        elif name == "delta":
            tried = sample(values, seed, run=BLOCK_VALUES, runs=2)  # differences do not cross blocks
        else:
            tried = few
        trial_counted = few_counted if tried is few else stats(tried, count_distinct=False)
        plan = search.trial(encoding, tried, trial_counted, depth)
        if plan is not None and (not in_place or _erasable(plan)):
            scale = len(values) / len(tried)
            found.append(
                replace(
                    plan,
                    predicted_bytes=round(plan.predicted_bytes * scale),
                    decode_ns=plan.decode_ns * scale,
                )
            )
    return found


def _erasable(plan: Plan) -> bool:
    return plan.encoding.in_place and all(map(_erasable, plan.children))


def _names(dtype: np.dtype[np.generic], kind: str) -> Sequence[str]:
    """The encodings worth considering, fastest decoder first: `min` keeps the first of equals."""
    if kind == "text":
        return _TEXT
    if kind == "codes":
        return _CODES
    if dtype.kind == "b":
        return _BOOLS
    if dtype.kind == "f":
        return _FLOATS
    return _BYTES if dtype.itemsize == 1 else _INTEGERS


def _promising(name: str, counted: Stats, profile: Profile) -> bool:
    """Cheap reasons not to try."""
    per_byte = _DECODE_NS[name][1]
    if name in ("zstd", "fsst") and per_byte > profile.ns_per_byte * LARGEST_SAVING:
        return False
    if name == "rle":
        return counted.n_runs * 3 < counted.n
    if name == "mainly_constant":
        return counted.n_runs * 10 < counted.n * 9
    if name == "byte_split":
        # Of integers, bit-packing saves the empty planes already; the others repay only a compressor.
        return counted.width_bits > 8 and (counted.dtype.kind == "f" or profile.ns_per_byte > 2)
    return name != "constant" or counted.n_runs == 1


def describe(number: int, payload: Bytes, n: int, dtype: np.dtype[np.generic]) -> str:
    """The cascade of a written stream, read off its payload, in the words of `Plan`."""
    encoding = BY_ID[number]
    inner = [describe(child, part, m, kind) for _, child, part, m, kind in encoding.parts(payload, n, dtype)]
    return f"{encoding.name}({', '.join(inner)})" if inner else encoding.name
