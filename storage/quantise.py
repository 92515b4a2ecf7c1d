"""Quantised storage: which narrower format floats are kept in, the error that this costs, and bounds that hold.

The writer asks `parse` what the user wants of a column, `for_chunk` what each chunk may be stored as, and writes the
column's `Report` into the QUANTISATION section; readers hand the report out. Formats themselves are encodings (`cast`,
`int8`). Nothing is lossy unless the user named a format or a bound, and a bound holds on all values: each chunk is
measured on every value before it is written, and one that breaks the bound is stored in a finer format or exactly.

A row of the section, 96 bytes:

    at  bytes
    0   u8    formats used, a bit each: 1 exact, 2 fp16, 4 bf16, 8 fp8 e4m3, 16 fp8 e5m2, 32 int8
    1   u8    bounds asked for, a bit each: 1 absolute, 2 relative
    2   6     zero
    8   u64   values
    16  f64   largest absolute error
    24  f64   largest relative error
    32  f64   sum of squared errors
    40  u64   overflows
    48  u64   NaNs
    56  u64   infinities
    64  f64   bound of the absolute error, 0 if none
    72  f64   bound of the relative error, 0 if none
    80  u64   values stored exactly
    88  8     zero

Stochastic rounding, scales learnt from a model and calibration on samples are deliberately absent.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Final, Literal, TypeAlias, get_args

import numpy as np

from headrace.storage.encodings import Encoding, UnsupportedArray, cast, int8
from headrace.storage.encodings.cast import Cast
from headrace.storage.encodings.contract import BLOCK_VALUES, Array
from headrace.storage.encodings.deviation import deviation
from headrace.storage.encodings.int8 import Int8
from headrace.storage.errors import CorruptFooter, UnknownQuantisation
from headrace.storage.logical import ColumnType

Kind: TypeAlias = Literal["fp16", "bf16", "fp8_e4m3", "fp8_e5m2", "int8"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
EXACT: Final = "exact"

CHEAPEST_FIRST: Final[tuple[Kind, ...]] = ("fp8_e4m3", "fp8_e5m2", "int8", "fp16", "bf16")
"""One byte a value before two; of equals the one that readers convert faster, then the finer one."""

_BITS: Final[dict[str, int]] = {EXACT: 1, "fp16": 2, "bf16": 4, "fp8_e4m3": 8, "fp8_e5m2": 16, "int8": 32}
_ROW: Final = struct.Struct("<BB6xQdddQQQddQ8x")
ROW_BYTES: Final = _ROW.size
_PIECE: Final = 128 * BLOCK_VALUES
"""Measured at a time: a bound that breaks breaks early, and a long stream is worth its kernels."""


@dataclass(frozen=True)
class Quantisation:
    """What the user asked for: a format by name, or bounds that all values must keep."""

    kind: Kind | None = None
    max_abs_err: float | None = None
    """Largest |stored - value|."""
    max_rel_err: float | None = None
    """Largest |stored - value| / |value|; a stored zero must be exact."""

    def allows(self, report: Report) -> bool:
        """Whether values with this report may be stored so. A named format takes what comes."""
        return (self.max_abs_err is None or report.max_abs_err <= self.max_abs_err) and (
            self.max_rel_err is None or report.max_rel_err <= self.max_rel_err
        )


@dataclass(frozen=True)
class Report:
    """What storing some values cost. Reports of parts add up to that of the whole: ``a + b``.

    An overflow is a number beyond the format's largest, or an infinity, that comes back as another one; if either of the
    two is infinite, so are the largest errors. NaNs are kept by every format.
    """

    kinds: tuple[str, ...] = ()
    """Formats used, ``exact`` among them where a bound broke; in the order of `_BITS`."""
    n: int = 0
    max_abs_err: float = 0.0
    max_rel_err: float = 0.0
    sum_sq_err: float = 0.0
    """Over values whose error is finite."""
    overflow: int = 0
    n_nan: int = 0
    n_inf: int = 0
    n_exact: int = 0
    """Values stored exactly, because a bound would have broken."""
    bound: Quantisation = Quantisation()
    """What was asked for; only its bounds are written to the file."""

    @property
    def kind(self) -> str:
        """The one format used, ``exact``, or ``mixed``; exact for no values."""
        return self.kinds[0] if len(self.kinds) == 1 else "mixed" if self.kinds else EXACT

    @property
    def rms_err(self) -> float:
        """Root of the mean squared error, over values that are no NaN, in the values' unit."""
        n = self.n - self.n_nan
        return math.sqrt(self.sum_sq_err / n) if n else 0.0

    def __add__(self, other: Report) -> Report:
        both = {*self.kinds, *other.kinds}
        return Report(
            tuple(kind for kind in _BITS if kind in both),
            self.n + other.n,
            max(self.max_abs_err, other.max_abs_err),
            max(self.max_rel_err, other.max_rel_err),
            self.sum_sq_err + other.sum_sq_err,
            self.overflow + other.overflow,
            self.n_nan + other.n_nan,
            self.n_inf + other.n_inf,
            self.n_exact + other.n_exact,
            self.bound if self.kinds else other.bound,
        )


def parse(spec: str | Mapping[str, float] | Quantisation) -> Quantisation:
    """What a user's setting for one column means.

    Args:
        spec: a name of `KINDS`, or a mapping with ``max_abs_err``, ``max_rel_err`` or both, each above 0.

    Raises:
        UnknownQuantisation: anything else.

    >>> parse("bf16")
    Quantisation(kind='bf16', max_abs_err=None, max_rel_err=None)
    >>> parse({"max_rel_err": 0.01}).max_rel_err
    0.01
    """
    if isinstance(spec, Quantisation):
        return spec
    if isinstance(spec, str):
        for kind in KINDS:
            if spec == kind:
                return Quantisation(kind)
        near = [kind for kind in KINDS if spec and kind.startswith(spec)] or get_close_matches(spec, KINDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownQuantisation(
            f"expected a storage format, one of {', '.join(KINDS)}, or a bound such as {{'max_abs_err': 0.001}}; "
            f"got {spec!r}{hint}"
        )
    if not isinstance(spec, Mapping) or not spec or not {*spec} <= {"max_abs_err", "max_rel_err"}:
        raise UnknownQuantisation(f"expected max_abs_err, max_rel_err or both, got {spec!r}")
    for name, bound in spec.items():
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 < bound < math.inf:
            raise UnknownQuantisation(f"expected {name} as a finite number above 0, got {bound!r}")
    return Quantisation(None, **{name: float(bound) for name, bound in spec.items()})


def can_quantise(type_: ColumnType) -> bool:
    """Whether a column holds float32 or float64, or a list of them, and no dictionary, whose entries are exact."""
    fits = type_.leaf.dtype in (np.float32, np.float64)
    return fits and not type_.is_nested and type_.dictionary is None


def encoder(kind: Kind) -> Encoding:
    """The encoding that writes a format; `encodings.BY_ID` reads it."""
    return Int8(writes=True) if kind == "int8" else Cast(kind)


def measure(values: Array, kind: Kind) -> Report:
    """What storing one stream in a format would cost, every value looked at.

    Args:
        values: float32[n] or float64[n]; blocks of int8 count from its first value.

    Raises:
        UnsupportedArray: another dtype.

    >>> report = measure(np.array([1.0, 1.001, np.nan, 1e6], np.float32), "fp16")
    >>> report.overflow, report.n_nan, report.max_abs_err
    (1, 1, inf)
    """
    return sum(_measured(values, kind), Report((kind,)))


def cheapest(values: Array, bound: Quantisation) -> Kind | None:
    """The cheapest format that keeps the bounds on all of the values given; None if only exact storage does.

    A named format is its own answer.
    """
    if bound.kind is not None:
        return bound.kind
    return next((kind for kind in CHEAPEST_FIRST if _keeps([values], kind, bound) is not None), None)


def for_chunk(
    streams: Sequence[Array], wanted: Quantisation, first: Kind | None = None
) -> tuple[Kind | None, Report]:
    """What one chunk may be stored as, and what that costs.

    Args:
        streams: the chunk's values, one array per page, as they will be encoded.
        wanted: what the user asked for.
        first: the format of the chunks before, to be kept if the bounds allow it.

    Returns:
        kind: the format, None for exact storage.
        report: of exactly these values, ready to be added to the column's.

    >>> kind, report = for_chunk([np.arange(9, dtype=np.float32)], parse({"max_abs_err": 0.1}))
    >>> kind, report.max_abs_err
    ('fp8_e4m3', 0.0)
    """
    if wanted.kind is not None:
        report = sum((measure(values, wanted.kind) for values in streams), Report((wanted.kind,)))
        return wanted.kind, replace(report, bound=wanted)
    order = dict.fromkeys((first, *CHEAPEST_FIRST) if first else CHEAPEST_FIRST)
    for kind in order:
        kept = _keeps(streams, kind, wanted)
        if kept is not None:
            return kind, replace(kept, bound=wanted)
    n = sum(map(len, streams))
    n_nan = sum(int(np.count_nonzero(np.isnan(values))) for values in streams)
    n_inf = sum(int(np.count_nonzero(np.isinf(values))) for values in streams)
    return None, Report((EXACT,), n, n_nan=n_nan, n_inf=n_inf, n_exact=n, bound=wanted)


def pack(report: Report) -> bytes:
    """One row of the QUANTISATION section, `ROW_BYTES` long."""
    bound = report.bound
    asked = (bound.max_abs_err is not None) | (bound.max_rel_err is not None) << 1
    return _ROW.pack(
        sum(_BITS[kind] for kind in report.kinds),
        asked,
        report.n,
        report.max_abs_err,
        report.max_rel_err,
        report.sum_sq_err,
        report.overflow,
        report.n_nan,
        report.n_inf,
        bound.max_abs_err or 0.0,
        bound.max_rel_err or 0.0,
        report.n_exact,
    )


def unpack(row: bytes, file: str = "", offset: int = 0) -> Report:
    """The report in a row of the section; errors speak of `file` and `offset`.

    Raises:
        CorruptFooter: another length, a number that `pack` does not write, or counts that contradict each other.
    """
    if len(row) != _ROW.size:
        raise CorruptFooter(
            file, "quantisation report", offset=offset, expected=f"{_ROW.size} bytes", got=len(row)
        )
    used, asked, n, *errors, overflow, n_nan, n_inf, abs_bound, rel_bound, n_exact = _ROW.unpack(row)
    kinds = tuple(kind for kind, bit in _BITS.items() if used & bit)
    bound = Quantisation(None, abs_bound if asked & 1 else None, rel_bound if asked & 2 else None)
    max_abs_err, max_rel_err, sum_sq_err = errors
    report = Report(kinds, n, max_abs_err, max_rel_err, sum_sq_err, overflow, n_nan, n_inf, n_exact, bound)
    sound = all(number >= 0 for number in (*errors, abs_bound, rel_bound))
    if not sound or max(overflow, n_nan + n_inf, n_exact) > n or pack(report) != row:
        raise CorruptFooter(file, "quantisation report", offset=offset, expected="a sound row", got=row.hex())
    return report


def _keeps(streams: Iterable[Array], kind: Kind, bound: Quantisation) -> Report | None:
    """The report of all streams, or None as soon as a piece breaks the bound."""
    whole = Report((kind,))
    for values in streams:
        for report in _measured(values, kind):
            if not bound.allows(report):
                return None
            whole += report
    return whole


def _measured(values: Array, kind: Kind) -> Iterable[Report]:
    if values.dtype not in (np.float32, np.float64):
        raise UnsupportedArray(f"float32 and float64 can be quantised, got {values.dtype}; cast it first")
    for start in range(0, len(values), _PIECE):
        yield _piece(values[start : start + _PIECE], kind)


def _piece(values: Array, kind: Kind) -> Report:
    """The report of a few whole blocks."""
    values = np.ascontiguousarray(values)
    stored = np.empty_like(values)
    if kind == "int8":
        int8.widen(*int8.narrow(values), stored)
        largest = float(np.finfo(np.float32).max)
    else:
        cast.widen(cast.narrow(values, kind), kind, stored)
        largest = cast.LARGEST[kind]
    found = deviation(values, stored, largest)
    return Report((kind,), len(values), *found)
