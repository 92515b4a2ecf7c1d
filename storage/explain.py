"""Why a file's columns are stored as they are: what was written, and what the cascade would choose among.

For people (``headrace explain``) and tests. What was written is read off the pages (``anatomy``); the candidates are those of
``select`` for the first row group's values, decoded and planned again with the file's profile, so predicted bytes stand
beside real ones. Writing is not done again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headrace.storage import anatomy, exact, flatten, nested_columns, select
from headrace.storage.footer import Column
from headrace.storage.reader import File
from headrace.storage.select import PROFILES, Candidate, Profile

_DIRECT = ("values", "bytes", "lengths", "item lengths", "validity", "item validity", "high words")


@dataclass(frozen=True)
class StreamChoice:
    """One role's streams over a whole column."""

    role: str
    cascades: dict[str, int]
    """Pages by the cascade they are written with, most first."""
    bytes: int
    """Of all payloads."""
    candidates: tuple[Candidate, ...]
    """What could have been written for the first row group, best first; empty where it was not a choice of cascades."""


@dataclass(frozen=True)
class ColumnChoice:
    """How one flat column is stored, and why."""

    name: str
    type: str
    mark: str
    layout: str
    """"values", "dictionary", "file-wide dictionary", "sequence", "following" or "quantised"."""
    raw_bytes: int
    stored_bytes: int
    streams: tuple[StreamChoice, ...]


def explain(file: File, columns: Sequence[str] | None = None) -> list[ColumnChoice]:
    """How columns are stored, and which cascades there were to choose from.

    Args:
        file: an open file.
        columns: names or patterns; None is all.

    Raises:
        NoSuchColumn: naming the first one missing.
        CorruptPage: a page does not match its hash.
    """
    # A profile of the caller's own has no name here; what it chose is still shown beside what "balanced" would.
    profile = PROFILES.get(anatomy.key_values(file).get("profile", "balanced"), PROFILES["balanced"])
    found = []
    for column in file.footer.columns(columns):
        parts = file.footer.parts(column)
        raw = anatomy.measured(file, column).raw_bytes
        arrays = _first_group(file, column)
        for part, array in zip(parts, arrays, strict=True):
            shape = anatomy.column(file, part)
            found.append(_choice(part, shape, array, profile, raw if part is parts[0] else 0))
    return found


def _first_group(file: File, column: Column) -> list[pa.Array | None]:
    """The flat arrays of the first row group's rows, in plain form; None for an empty file."""
    nodes = nested_columns.nodes(column.type)
    if not file.n_rows:
        return [None] * len(nodes)
    batches = list(file.batches([column.name], groups=range(1)))
    plain = [exact.plain(batch.column(0), column.type.plain) for batch in batches]
    array = plain[0] if len(plain) == 1 else pa.concat_arrays(plain)
    return [*nested_columns.shred(array, column.type)]


def _choice(
    column: Column, part: anatomy.ColumnPart, array: pa.Array | None, profile: Profile, raw_bytes: int
) -> ColumnChoice:
    in_place = profile.in_place
    candidates: dict[str, tuple[Candidate, ...]] = {}
    if array is not None and len(array):
        cuts = np.array([0, len(array)], np.int64)
        rows, leaves = flatten.split(array, column.type, cuts)
        flats = [flat for flat in (rows.validity, rows.lengths, rows.item_validity) if flat is not None]
        flats += flatten.leaf_flats(leaves, column.type, rows.leaf_cuts)
        for flat in flats:
            plans = select.explain(flat.values, profile, kind=flat.kind, in_place=in_place)
            candidates[anatomy.ROLES[flat.role]] = tuple(plans)
    roles: dict[str, list[anatomy.Stream]] = {}
    for page in part.pages:
        for stream in page.streams if page.number >= 0 else ():
            roles.setdefault(stream.role, []).append(stream)
    streams = tuple(
        StreamChoice(
            role,
            dict(Counter(stream.cascade for stream in of_role).most_common()),
            sum(stream.bytes for stream in of_role),
            candidates.get(role, ()) if role in _DIRECT else (),
        )
        for role, of_role in roles.items()
    )
    return ColumnChoice(part.name, part.type, part.mark, _layout(part, roles), raw_bytes, part.bytes, streams)


def _layout(part: anatomy.ColumnPart, roles: dict[str, list[anatomy.Stream]]) -> str:
    if "copies per row" in roles:
        return "sequence"
    if "items" in roles:
        return "following"
    if "codes" in roles:
        shared = any(page.number < 0 and page.group < 0 for page in part.pages)
        return "file-wide dictionary" if shared else "dictionary"
    forms = {stream.encoding for stream in roles.get("values", ())}
    return "quantised" if forms & {"cast", "int8"} else "values"
