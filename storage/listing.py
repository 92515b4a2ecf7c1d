"""What a row of versions adds up to: live files, removals, and who committed which batch.

The arithmetic behind ``log``, over manifests that were read and checked there. Newest first: a removal hides files of
older versions, a file that was replaced under its own path is the newer one, and a version that replaced all rows, or
lists everything itself, ends the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from headrace.storage.manifest import DataFile, Keyed, Manifest


@dataclass(frozen=True)
class Listing:
    """What a table holds at one version: live files with the version that added them, and every keyed commit.

    ``expired`` are keyed commits of versions that are no longer kept, as ranges of batches.
    """

    version: int = 0
    files: tuple[tuple[int, DataFile], ...] = ()
    keys: dict[tuple[str, int], int] = field(default_factory=dict)
    expired: tuple[Keyed, ...] = ()

    def then(self, step: Manifest) -> Listing:
        """What it is after one more version."""
        gone = set(step.removed)
        kept = () if step.replaces_all else tuple(entry for entry in self.files if entry[1].path not in gone)
        added = tuple((step.version, file) for file in step.added)
        keys = self.keys if step.key is None else {**self.keys, step.key: step.version}
        return Listing(step.version, kept + added, keys, self.expired)

    def committed(self, key: tuple[str, int]) -> int:
        """The version that committed a key, one of those after it if that has expired; 0 if none did."""
        if found := self.keys.get(key):
            return found
        query, batch = key
        return next(
            (
                e.version
                for e in self.expired
                if e.query_id == query and e.batch_id <= batch <= (e.through or 0)
            ),
            0,
        )


@dataclass(frozen=True)
class Sum:
    """What a row of versions adds up to: files, removals, keys, and where everything before was left behind."""

    files: tuple[tuple[int, DataFile], ...]
    removed: set[str]
    keys: dict[tuple[str, int], int]
    expired: tuple[Keyed, ...]
    cleared_at: int


def keyed(keys: Mapping[tuple[str, int], int]) -> tuple[Keyed, ...]:
    """Keyed commits as manifests list them, in the order of their versions."""
    return tuple(Keyed(query, batch, at) for (query, batch), at in sorted(keys.items(), key=lambda k: k[1]))


def ranges(keys: Mapping[tuple[str, int], int], known: tuple[Keyed, ...] = ()) -> tuple[Keyed, ...]:
    """Keyed commits as ranges of neighbouring batches, joined with those known; a stream's millions make one.

    >>> [(found.batch_id, found.through) for found in ranges({("q", 0): 3, ("q", 1): 4, ("q", 7): 5})]
    [(0, 1), (7, 7)]
    """
    parts = [Keyed(query, batch, version, batch) for (query, batch), version in keys.items()]
    joined: list[Keyed] = []
    for part in sorted((*known, *parts), key=lambda found: (found.query_id, found.batch_id)):
        last = joined[-1] if joined else None
        if last and last.query_id == part.query_id and part.batch_id <= (last.through or 0) + 1:
            through = max(last.through or 0, part.through or 0)
            joined[-1] = Keyed(last.query_id, last.batch_id, max(last.version, part.version), through)
        else:
            joined.append(part)
    return tuple(joined)


def sum_up(steps: Iterable[Manifest], stop: int) -> Sum:
    """What versions after ``stop`` add up to.

    Args:
        steps: the newest of them and those it leads to, newest first; see ``Log.walk``. The last must lead to ``stop``
            itself: what a span removes is told without its version.
        stop: the version they start after.
    """
    files: list[tuple[int, DataFile]] = []
    removed: set[str] = set()
    keys: dict[tuple[str, int], int] = {}
    expired: tuple[Keyed, ...] = ()
    cleared_at = 0
    for step in steps:
        span = step.span
        for entry in span.keys:
            if entry.through is not None:
                expired = (*expired, entry)
            elif entry.version > stop:
                keys[entry.query_id, entry.batch_id] = entry.version
        if step.key is not None:
            keys[step.key] = step.version
        if cleared_at:
            continue
        mine = [(step.version, file) for file in step.added if file.path not in removed]
        removed.update(step.removed)
        if step.replaces_all:
            cleared_at = step.version
        else:
            spanned = [(v, f) for v, f in span.files if v > stop and f.path not in removed]
            mine = [*spanned, *mine]
            removed.update(span.removed)
            cleared_at = span.cleared_at if span.cleared_at > stop else 0
        files[:0] = mine
    return Sum(tuple(files), removed, keys, expired, cleared_at)
