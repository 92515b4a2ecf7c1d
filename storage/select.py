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

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np

from headrace.storage.decode_cost import CHILD_NS, DECODE_NS, LEAST_CHILDREN, least_ns, own_ns
from headrace.storage.encodings import ALL, CannotEncode, Encoding, Stats, stats
from headrace.storage.encodings.bitpack import packed_bytes
from headrace.storage.encodings.contract import BLOCK_VALUES, MAX_DEPTH, Array
from headrace.storage.encodings.varint import least_bytes
from headrace.storage.encodings.zstd import Zstd

RUNS: Final = 16
RUN_VALUES: Final = 64
TEXT_RUN_BYTES: Final = 1024
LARGEST_SAVING: Final = 0.8
"""What compressors of bytes leave at least a fifth of: a byte that costs more to decode than that is worth is not tried."""
HINTED: Final = 1.25
"""How far a sample may be off the mark."""
SLACK: Final = 1.01
"""No stream is written larger than so many times its plain bytes."""


@dataclass(frozen=True)
class Profile:
    """What a byte is worth: how many nanoseconds of decoding one byte less in the file may cost."""

    name: str
    ns_per_byte: float
    zstd: Encoding
    in_place: bool = False
    """Columns get only encodings whose values can be overwritten where they lie, and lie in one place: planes of bytes save a
    few percent and spread a value over as many disk blocks."""
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

    @property
    def n_children(self) -> int:
        """Streams below this one, at any depth."""
        return len(self.children) + sum(child.n_children for child in self.children)

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
    search = partial(_plans, values, profile, kind, in_place, seed, int(nested))
    insisted = search(only=only) if only in _names(values.dtype, kind) else []
    return min(insisted or search() or [_PACKED], key=lambda plan: plan.cost(profile))


def explain(
    values: Array, profile: Profile, *, kind: str = "values", in_place: bool = False, seed: int = 0
) -> list[Candidate]:
    """How `choose` comes to its answer: one candidate per encoding that can write these values, best first."""
    chosen = str(choose(values, profile, kind=kind, in_place=in_place, seed=seed))
    plans = _plans(values, profile, kind, in_place, seed, pruned=False)
    plans.sort(key=lambda plan: (str(plan) != chosen, plan.cost(profile)))
    return [
        Candidate(plan.encoding.name, str(plan), plan.predicted_bytes, plan.decode_ns / 1000, at == 0)
        for at, plan in enumerate(plans)
    ]


def encode(plan: Plan, values: Array) -> tuple[int, bytes]:
    """Write values as planned, or plain where the plan does not fit or would be larger: wire id and payload."""
    written = _encode(plan, values)
    return written if len(written[1]) <= values.nbytes * SLACK else _encode(PLAIN, values)


def _encode(plan: Plan, values: Array) -> tuple[int, bytes]:
    children = iter(plan.children)

    def child(inner: Array) -> tuple[int, bytes]:
        return _encode(next(children, _PACKED), inner)

    try:
        return plan.encoding.id, plan.encoding.encode(values, child)
    except CannotEncode:
        # The sample promised what the rest did not keep: a constant, which has exceptions. Either of these takes anything.
        return min(((one.id, one.encode(values)) for one in _ANY), key=lambda one: len(one[1]))


_PACKED: Final = Plan(_BY_NAME["bitpack"], 0, 0.0)
_ANY: Final = (_BY_NAME["bitpack"], _BY_NAME["pfor"])


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
    pruned: bool = True
    """Whether encodings are left out that cannot cost less than what has been found, whatever a trial would say."""

    def best(self, values: Array, depth: int, parent: str) -> Plan:
        """The plan of a child stream, from all of its (few) values."""
        if not len(values) or parent == "zstd":
            # A compressor finds more in bytes than in bits that were packed before it.
            return replace(PLAIN, predicted_bytes=values.nbytes, decode_ns=own_ns("plain", values))
        counted = stats(values, count_distinct=False, count_bit_lengths=True)
        found = _Found(self.profile, self.pruned)
        for name in _names(values.dtype, "values"):
            if (name not in _CHILDREN and name not in _BOOLS) or name == parent == "byte_split":
                continue
            if self.considers(name, values, counted, found):
                found.add(self.trial(self.encoding(name), values, counted, depth))
        return found.best or PLAIN

    def encoding(self, name: str) -> Encoding:
        """An encoding as the profile wants it."""
        return self.profile.zstd if name == "zstd" else _BY_NAME[name]

    def considers(
        self,
        name: str,
        values: Array,
        counted: Stats,
        found: _Found,
        *,
        top: bool = False,
        insisted: bool = False,
    ) -> bool:
        """Whether an encoding may be used, can be used, and might cost less than what has been found or is insisted on."""
        encoding = self.encoding(name)
        return (
            (not self.in_place or (encoding.in_place and name != "byte_split"))
            and encoding.can_encode(counted)
            and (insisted or _promising(name, counted, self.profile))
            and not found.beats(_floor(name, values, counted, self.profile, top))
        )

    def trial(self, encoding: Encoding, values: Array, counted: Stats, depth: int) -> Plan | None:
        """What `encoding` makes of `values`, by its closed form if it has one."""
        ns = own_ns(encoding.name, values)
        size = encoding.size(counted)
        if size is not None and encoding.name not in LEAST_CHILDREN:
            return Plan(encoding, size, ns)
        if depth + 1 >= MAX_DEPTH:
            return None
        children: list[Plan] = []

        def child(inner: Array) -> tuple[int, bytes]:
            plan = self.best(inner, depth + 1, encoding.name)
            children.append(plan)
            if encoding.name == "zstd" or plan.encoding.name == "rle":
                return _encode(plan, inner)
            # Where its length is known, that is all that its parent's depends on.
            return plan.encoding.id, bytes(plan.predicted_bytes)

        try:
            payload = encoding.encode(values, child)
        except CannotEncode:
            return None
        return Plan(encoding, len(payload), ns + sum(part.decode_ns for part in children), tuple(children))


@dataclass
class _Found:
    """The plans of a stream so far."""

    profile: Profile
    pruned: bool
    plans: list[Plan] = field(default_factory=list)
    best: Plan | None = None
    """The cheapest; the first of equals."""

    def add(self, plan: Plan | None) -> None:
        """One more."""
        if plan is None:
            return
        self.plans.append(plan)
        if self.best is None or plan.cost(self.profile) < self.best.cost(self.profile):
            self.best = plan

    def beats(self, cost: float) -> bool:
        """Whether what costs at least so much need not be tried."""
        return self.pruned and self.best is not None and self.best.cost(self.profile) <= cost


def _floor(name: str, values: Array, counted: Stats, profile: Profile, top: bool) -> float:
    """What an encoding costs at least: the time, and the bytes of one that can count them."""
    least = least_bytes(counted) if name == "varint" else 0
    return least_ns(name, values, found=top) + least * profile.ns_per_byte


def _plans(
    values: Array,
    profile: Profile,
    kind: str,
    in_place: bool,
    seed: int,
    depth: int = 0,
    *,
    pruned: bool = True,
    only: str | None = None,
) -> list[Plan]:
    few = sample(values, seed, run=TEXT_RUN_BYTES if kind == "text" else profile.run_values)
    few_counted = stats(few, count_distinct=False, count_bit_lengths=True)
    counted = few_counted if few is values else stats(values, count_distinct=False)
    search = _Search(profile, in_place, pruned)
    found = _Found(profile, pruned)

    def tried(name: str, some: Array, some_counted: Stats) -> Plan | None:
        plan = search.trial(search.encoding(name), some, some_counted, depth)
        if plan is None or (in_place and not _erasable(plan)):
            return None
        scale = len(values) / len(some)
        decode_ns = plan.decode_ns * scale + CHILD_NS * plan.n_children
        return replace(plan, predicted_bytes=round(plan.predicted_bytes * scale), decode_ns=decode_ns)

    for name in (only,) if only is not None else _names(values.dtype, kind):
        if not search.considers(name, values, counted, found, top=True, insisted=only is not None):
            continue
        # A dictionary's own estimate is of values; these are codes already.
        codes = name == "dictionary" and kind == "codes"
        encoding = search.encoding(name)
        size = packed_bytes(counted.n, (counted.max or 0).bit_length()) if codes else encoding.size(counted)
        if size is not None and name not in LEAST_CHILDREN:
            own_children = 2 if name == "rle" else 0  # which are no choice, and so not in its plan
            found.add(Plan(encoding, size, own_ns(name, values) + CHILD_NS * own_children))
        elif name in ("sparse_bool", "mainly_constant"):
            # What is rare is not in a sample, so all values are split; where nothing is rare, a sample says as much.
            common = (
                pruned and name == "mainly_constant" and few_counted.n < counted.n and not _one_rules(few)
            )
            hint = tried(name, few, few_counted) if common else None
            if hint is None or not found.beats(hint.cost(profile) / HINTED):
                found.add(tried(name, values, counted))
        elif name == "delta":  # differences do not cross blocks
            some = sample(values, seed, run=BLOCK_VALUES, runs=2)
            found.add(tried(name, some, stats(some, count_distinct=False)))
        else:
            found.add(tried(name, few, few_counted))
    return found.plans


def _one_rules(few: Array) -> bool:
    """Whether most of a sample is one value."""
    stored = few.view(f"u{few.itemsize}")
    middle = np.partition(stored, len(stored) // 2)[len(stored) // 2]
    return bool(np.count_nonzero(stored == middle) * 10 > len(stored) * 9)


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
    per_byte = DECODE_NS[name][1]
    if name in ("zstd", "fsst") and per_byte > profile.ns_per_byte * LARGEST_SAVING:
        return False
    if name == "rle":
        return counted.n_runs * 3 < counted.n
    if name == "mainly_constant":
        return counted.n_runs * 10 < counted.n * 9
    if name == "sparse_bool":
        # Each rare value makes two runs at most; where one in five is rare, its gap takes more than five bits.
        return counted.n_runs * 5 < counted.n * 2
    if name == "byte_split":
        # Of integers, bit-packing saves the empty planes already; the others repay only a compressor.
        return counted.width_bits > 8 and (counted.dtype.kind == "f" or profile.ns_per_byte > 2)
    return name != "constant" or counted.n_runs == 1
