"""One column's part of one row group, from Arrow to encoded pages: streams are flattened, planned and cut here.

Sits between the writer, which knows files, and ``page``, which knows how streams lie in a page. A chunk is flattened once,
its cascades are chosen once for all of its pages (``select``) and kept for the next row group as long as they serve as
well there. Whether a dictionary pays is decided here too (``entries``), since its entries lie outside the page. Lists that
slide are given as edits (``sequences``).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.storage import arrays, page, select
from headrace.storage.decode_cost import GATHER_NS
from headrace.storage.encodings.contract import Array
from headrace.storage.encodings.sequence import Edits
from headrace.storage.entries import SAMPLE, Entries, FileEntries, Order, countable, number, worth_counting
from headrace.storage.errors import SchemaMismatch
from headrace.storage.exact import plain
from headrace.storage.flatten import Cuts, Flat, Rows, leaf_flats, page_cuts, split
from headrace.storage.logical import ColumnType
from headrace.storage.page import Stream
from headrace.storage.quantise import Kind, Quantisation, Report, encoder, for_chunk
from headrace.storage.select import Plan, Profile
from headrace.storage.statistics import of_page
from headrace.storage.typecode import is_list

MAX_BLOCKS = 64
SMALL_ENTRIES_BYTES = 1 << 12
"""Dictionaries that are not worth sharing between row groups: reading one of a disk block costs little more than its share."""
COUNT_ALL = 1 << 16
_ORDERS: dict[str, Order] = {"size": "frequency", "compliance": "first use"}
"""By profile, of a dictionary's numbers."""
WIDE_BYTES = 5
REPLAN = 1.05
"""A plan that needs so much more per value than where it was made is made anew."""
REPLAN_BYTES = 64
"""Unless that is less than a choice is worth."""


@dataclass(frozen=True)
class PageBody:
    """A page without its nonce, and what the footer says of it."""

    body: bytes
    n_rows: int
    null_count: int
    statistics: bytes | None = None
    """Its row of STATS, if the column keeps them."""


@dataclass(frozen=True)
class Encoded:
    """A chunk, ready to be written."""

    pages: list[PageBody]
    null_count: int
    entries: tuple[bytes, int] | None = None
    """The chunk's own dictionary: a page without its nonce, and the number of entries."""
    item_nulls: bool = False
    report: Report | None = None
    """The errors of quantised storage."""


@dataclass(frozen=True)
class ColumnRules:
    """What the caller said about a column."""

    profile: Profile
    in_place: bool = False
    encoding: str | None = None
    """The outermost encoding of its values, or "dictionary"; None leaves it to the cascade."""
    page_blocks: int = MAX_BLOCKS
    statistics: bool = False
    """Whether pages say their smallest and largest value; never for personal columns."""
    quantisation: Quantisation | None = None
    file_dictionary: bool = False
    """Whether one dictionary for the whole file may be made."""
    seed: int = 0


@dataclass(frozen=True)
class Slides:
    """The edits of a chunk's lists, page by page (``encodings.sequence``)."""

    edits: list[Edits]
    cuts: Cuts
    follows: bool = False
    """Whether the edits are another column's, which has them in its pages."""

    def literals(self) -> tuple[Array, Cuts]:
        """The items that are written, of all pages."""
        return _joined([one.literals for one in self.edits])

    def controls(self) -> list[Flat]:
        """All that is written of the edits beside literals."""
        streams = [
            (page.SEQ_MODE, "mode"),
            (page.SEQ_NEW, "new"),
            (page.SEQ_SKIP, "skip"),
            (page.SEQ_KEEP, "keep"),
        ]
        return [Flat(role, *_joined([getattr(one, name) for one in self.edits])) for role, name in streams]

    def head(self, at: int) -> tuple[int, int]:
        """Flags and cap in the head of a page."""
        one = self.edits[at]
        return page.OLDEST_FIRST * one.oldest_first, one.cap


def _joined(parts: list[Array]) -> tuple[Array, Cuts]:
    cuts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=cuts[1:])
    return np.concatenate(parts), cuts


class ColumnWriter:
    """Writes one column's chunks in order of row groups, remembering what served the last one."""

    def __init__(self, type_: ColumnType, rules: ColumnRules) -> None:
        self.type, self.rules = type_, rules
        self.file_entries: FileEntries | None = None
        self._plans: dict[tuple[int, bool], tuple[Plan, float]] = {}
        self._fresh: dict[int, tuple[Array, Plan]] = {}
        self._coded: bool | None = None
        self._kind: Kind | None = None
        # Lists, and parts of nested columns, have no order that a filter could use.
        self._bounded = rules.statistics and not (type_.is_list or type_.is_nested)

    def keep_order(self, array: pa.Array, name: str) -> None:
        """Take over the entries of an ordered dictionary, which all pages' codes will refer to.

        Args:
            array: rows as they came, a dictionary or lists of one; other types of the same shape have no order to keep.
            name: of the column, for errors.

        Raises:
            SchemaMismatch: the order of the entries contradicts that of earlier rows, or they are more than indices reach.
        """
        leaf, wanted = self.type.leaf, self.type.dictionary
        if self.file_entries is None:
            self.file_entries, self._coded = FileEntries(leaf), True
        items = array.values if self.type.is_list and is_list(array.type) else array
        if not pa.types.is_dictionary(items.type) or wanted is None:
            return
        came = plain(items.dictionary, leaf.arrow).drop_null().unique()
        agrees = self.file_entries.keep_order(
            came if leaf.dtype is None else arrays.numbers(came, leaf.dtype)
        )
        most = 2 ** (wanted.index_type.bit_width - pa.types.is_signed_integer(wanted.index_type))
        if not agrees or self.file_entries.n_entries > most:
            raise SchemaMismatch(
                f"column {name!r} is an ordered dictionary by {wanted.index_type}: expected its entries in one order "
                f"throughout the file, at most {most}, got {came.to_pylist()[:8]} after others; give all batches the same ones"
            )

    def write(self, array: pa.Array, cuts: Cuts | None = None) -> Encoded:
        """One chunk.

        Args:
            array: rows, in the type's plain form; slices are fine.
            cuts: where pages end; None cuts by the width of the rows.
        """
        cuts = page_cuts(array, self.rules.page_blocks) if cuts is None else cuts
        rows, leaves = split(array, self.type, cuts)
        flats = [flat for flat in (rows.validity, rows.lengths, rows.item_validity) if flat is not None]
        direct = leaf_flats(leaves, self.type, rows.leaf_cuts)
        streams, report, entries = [self.streams(flat) for flat in flats], None, None
        if self.rules.quantisation is not None:
            narrowed, report = self._narrowed(direct[0], self.rules.quantisation)
            streams.append(narrowed)
        else:
            # Arrow has no kernel to count values of every type that is stored as a number.
            values = leaves if self.type.leaf.dtype is None else direct[0].values
            coded, entries = self._coded_or(direct, values, rows.leaf_cuts)
            streams += [self.streams(flat) for flat in coded]
        pages = self._pages(array, rows, streams)
        self._fresh.clear()
        return Encoded(pages, array.null_count, entries, rows.item_validity is not None, report)

    def write_sequence(self, array: pa.Array, slides: Slides) -> Encoded:
        """One chunk of lists as edits of each other."""
        rows, _ = split(array, self.type, slides.cuts)
        literals, literal_cuts = slides.literals()
        direct = [Flat(page.SEQ_LITERALS, literals, literal_cuts)]
        flats = [rows.validity] if rows.validity is not None else []
        flats += [] if slides.follows else slides.controls()
        streams, report, entries = [self.streams(flat) for flat in flats], None, None
        if self.rules.quantisation is not None:
            narrowed, report = self._narrowed(direct[0], self.rules.quantisation)
            streams.append(narrowed)
        else:
            coded, entries = self._coded_or(direct, literals, literal_cuts)
            streams += [self.streams(flat) for flat in coded]
        pages = self._pages(array, rows, streams, slides)
        self._fresh.clear()
        return Encoded(pages, array.null_count, entries, report=report)

    def _pages(
        self, array: pa.Array, rows: Rows, streams: list[list[Stream | None]], slides: Slides | None = None
    ) -> list[PageBody]:
        pages = []
        for at, (first, last) in enumerate(pairwise(rows.cuts.tolist())):
            n, nulls = last - first, rows.nulls[at]
            validity = page.NO_NULLS if not nulls else page.ALL_NULL if nulls == n else page.BITMAP
            parts = (
                []
                if validity == page.ALL_NULL
                else [one for role in streams if (one := role[at]) is not None]
            )
            flags, cap = slides.head(at) if slides is not None else (0, 0)
            body = page.assemble(n, validity, rows.n_items[at], parts, flags=flags, cap=cap)
            part = array[first:last]
            if part.nbytes > page.FREE_BYTES and part.nbytes > len(body) * page.EXPANSION:
                # A reader would take it for an attempt to exhaust its memory.
                body = plain_page(part, self.type)
            if nulls and self.type.null_bytes > page.NULL_ROW_BYTES:
                room = n * self.type.null_bytes
                body += bytes(max(0, -(-room // page.EXPANSION) - len(body)) if room > page.FREE_BYTES else 0)
            pages.append(PageBody(body, n, nulls, of_page(part, self.type) if self._bounded else None))
        return pages

    def streams(self, flat: Flat, *, entries: bool = False) -> list[Stream | None]:
        """One encoded stream per page; None where a page has none of this role.

        Args:
            flat: the role's values.
            entries: whether they are a dictionary's, which are planned on their own.
        """
        key = flat.role, entries
        kept = self._plans.get(key)
        plan = kept[0] if kept is not None else self._choose(flat, entries=entries)
        found, per_value = _encode(flat, plan)
        if (
            kept is not None
            and per_value > kept[1] * REPLAN
            and (per_value - kept[1]) * len(flat.values) > REPLAN_BYTES
        ):
            plan, kept = self._choose(flat, entries=entries), None
            found, per_value = _encode(flat, plan)
        if kept is None and len(flat.values):
            self._plans[key] = (plan, per_value)
        return found

    def _narrowed(self, flat: Flat, wanted: Quantisation) -> tuple[list[Stream | None], Report]:
        """Values in the format that the user allows, and the errors that this makes; exact where none keeps the bound."""
        parts = [flat.values[first:last] for first, last in pairwise(flat.cuts.tolist())]
        kind, report = for_chunk(parts, wanted, self._kind)
        if kind is None:
            return self.streams(flat), report
        self._kind = kind
        encoding, profile = encoder(kind), self.rules.profile

        def child(codes: Array) -> tuple[int, bytes]:
            plan = select.choose(
                codes, profile, in_place=self.rules.in_place, nested=True, seed=self.rules.seed
            )
            return select.encode(plan, codes)

        found: list[Stream | None] = []
        for values in parts:
            found.append(Stream(flat.role, encoding.id, len(values), encoding.encode(values, child)))
        return found, report

    def _choose(self, flat: Flat, *, entries: bool = False) -> Plan:
        """The cascade of a stream, which is asked for once to see whether a dictionary pays, and again to write it."""
        fresh = self._fresh.get(flat.role)
        if fresh is not None and fresh[0] is flat.values:
            return fresh[1]
        rules = self.rules
        only = rules.encoding if flat.role in (page.VALUES, page.BYTES) and not entries else None
        plan = select.choose(
            flat.values, rules.profile, kind=flat.kind, in_place=rules.in_place, only=only, seed=rules.seed
        )
        if not entries:
            self._fresh[flat.role] = flat.values, plan
        return plan

    def _coded_or(
        self, direct: list[Flat], leaves: Any, cuts: Cuts
    ) -> tuple[list[Flat], tuple[bytes, int] | None]:
        """Values as codes into a dictionary if that pays, and its entries; else as they are."""
        rules, profile = self.rules, self.rules.profile
        given = rules.encoding not in (None, "dictionary")
        if not self.type.is_ordered and (given or self._coded is False or not countable(self.type.leaf)):
            return direct, None
        if self._coded is None and rules.encoding is None and not self._repeats(direct[0], leaves):
            # Of a few values nothing follows for the next row group.
            self._coded = False if len(leaves) >= SAMPLE else None
            return direct, None
        by: Order = "value" if self.type.is_ordered else _ORDERS.get(profile.name, "value")
        if self.file_entries is not None:
            shared = self.file_entries.add(leaves)
            if shared is not None:
                return [Flat(page.CODES, shared, cuts, "codes", page.FILE_DICTIONARY)], None
        numbered = number(leaves, self.type.leaf, by)
        codes = Flat(page.CODES, numbered.codes, cuts, "codes")
        entries = self.entries_body(numbered.entries)
        if self._coded is None or len(numbered.entries) * 2 > len(leaves):
            plans = [self._choose(flat) for flat in direct]
            code_plan = self._choose(codes)
            gathered = GATHER_NS * len(leaves) + code_plan.cost(profile)
            pays = sum(plan.cost(profile) for plan in plans) > gathered + len(entries) * profile.ns_per_byte
            pays |= rules.encoding == "dictionary"
            if self._coded is None:
                self._coded = pays
            if not pays:
                return direct, None
            if (
                rules.file_dictionary
                and self._coded
                and len(entries) > SMALL_ENTRIES_BYTES
                and numbered.shared()
            ):
                self.file_entries = FileEntries(self.type.leaf, by)
                shared = self.file_entries.add(leaves, numbered)
                if shared is not None:
                    return [Flat(page.CODES, shared, cuts, "codes", page.FILE_DICTIONARY)], None
        return [codes], (entries, len(numbered.entries))

    def _repeats(self, direct: Flat, leaves: Any) -> bool:
        """Whether a dictionary is worth a try."""
        if worth_counting(leaves):
            return True
        # A sample shows few repetitions among half a million ids of a million; wide values repay a count of all.
        return len(leaves) >= COUNT_ALL and self._choose(direct).predicted_bytes > WIDE_BYTES * len(leaves)

    def entries_body(self, entries: Entries) -> bytes:
        """A dictionary's entries as a page without nonce: one row per entry, codes counting from 1."""
        cuts = np.array([0, len(entries)], np.int64)
        flats = leaf_flats(entries, self.type, cuts, items=False)
        streams = [one for flat in flats for one in self.streams(flat, entries=True) if one is not None]
        return page.assemble(len(entries), page.NO_NULLS, 0, streams)


def plain_page(array: pa.Array, type_: ColumnType) -> bytes:
    """One page of rows that are not all null, every stream plain."""
    rows, leaves = split(array, type_, np.array([0, len(array)], np.int64))
    flats = [flat for flat in (rows.validity, rows.lengths, rows.item_validity) if flat is not None]
    flats += leaf_flats(leaves, type_, rows.leaf_cuts)
    streams = [one for flat in flats for one in _encode(flat, select.PLAIN)[0] if one is not None]
    return page.assemble(
        len(array), page.BITMAP if array.null_count else page.NO_NULLS, rows.n_items[0], streams
    )


def _encode(flat: Flat, plan: Plan) -> tuple[list[Stream | None], float]:
    found: list[Stream | None] = []
    stored = 0
    for first, last in pairwise(flat.cuts.tolist()):
        if flat.optional and first == last:
            found.append(None)
            continue
        values = flat.values[first:last]
        encoding, payload = select.encode(plan, values)
        stored += len(payload)
        found.append(Stream(flat.role, encoding, len(values), payload, flat.flags))
    return found, stored / max(1, len(flat.values))
