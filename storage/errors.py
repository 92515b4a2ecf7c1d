"""What can go wrong in the store: one base, and each error is also the builtin a caller would already catch.

A message says what was expected, what came, where, and what to do next. Bytes that fail a check always raise before
a row built from them is returned.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SEARCHED_NAMES = 50_000  # for one that comes near a mistyped name


class StorageError(Exception):
    """Base of everything the store raises on purpose."""


class BadFile(StorageError, ValueError):
    """Not a readable headrace file: wrong magic, cut short, or a header or trailer that fails its hash."""


class CorruptFooter(StorageError, ValueError):
    """A part of a file's footer does not match its hash, or holds a number its neighbours contradict."""

    def __init__(self, file: str, what: str, *, offset: int, expected: object, got: object) -> None:
        super().__init__(
            f"{file}: footer damaged, {what} at byte {offset}: expected {expected}, got {got}; "
            "restore the file from a copy or write it again from its source"
        )
        self.file, self.what, self.offset, self.expected, self.got = file, what, offset, expected, got


class CorruptPage(StorageError, ValueError):
    """A page does not match its hash, or its streams contradict each other. ``page`` is -1 for a dictionary."""

    def __init__(
        self, file: str, column: str, page: int, what: str, *, offset: int, expected: object, got: object
    ) -> None:
        where = f"page {page}" if page >= 0 else "dictionary"
        super().__init__(
            f"{file}: {where} of column {column!r} at byte {offset} damaged, {what}: expected {expected}, got {got}; "
            "other pages stay readable; restore this file from a copy or write it again from its source"
        )
        self.file, self.column, self.page, self.what = file, column, page, what
        self.offset, self.expected, self.got = offset, expected, got


class UnsupportedFeature(StorageError, ValueError):
    """The bytes are sound, but need a newer reader; the message names the feature."""


class UnsupportedType(StorageError, TypeError):
    """An Arrow type the store cannot hold."""


class SchemaMismatch(StorageError, ValueError):
    """Rows do not fit the schema they are written under; the message lists the columns that differ."""


class NoSuchColumn(StorageError, LookupError):
    """A column was asked for that the file or table does not have."""


class NoSuchVersion(StorageError, LookupError):
    """A table version was asked for that was never committed."""


class TableNotFound(StorageError, FileNotFoundError):
    """The folder holds no table."""


class TableExists(StorageError, FileExistsError):
    """The folder already holds a table."""


class CorruptManifest(StorageError, ValueError):
    """A manifest or attachment does not match the hash recorded for it, or is not well formed."""


class UnsafePath(StorageError, ValueError):
    """A path from a manifest would leave the table's folder."""


class CommitConflict(StorageError, RuntimeError):
    """Another writer committed something that this commit cannot be combined with."""


class PlanOutdated(CommitConflict, RuntimeError):
    """What an operation was planned with has changed; maintenance plans again by itself and raises this only in the end."""


class CommitFenced(CommitConflict, RuntimeError):
    """A newer driver has this query: the batch of an older one is not taken."""


class StagedTooLongAgo(CommitConflict, RuntimeError):
    """A file was staged before what garbage collection still spares; its rows must be staged again."""


class CommitUnknown(StorageError, OSError):
    """The machine failed after the manifest was published: it may or may not be durable. Nothing was removed."""


class TaskLost(StorageError, RuntimeError):
    """A task of a distributed write did not say what it staged; nothing was committed."""


class TooLarge(StorageError, OverflowError):
    """More bytes than one page, row group or batch can address."""


class ErasedDataReturned(StorageError, ValueError):
    """A file is older than the last erase its table knows of: somebody restored rows that were erased."""


class NoEraseKey(StorageError, ValueError):
    """A file or table was written without the name of the column that says whose a row is."""


class EraseUnfinished(StorageError, RuntimeError):
    """An erase in place was interrupted and cannot be finished here."""


class CannotEraseInPlace(StorageError, ValueError):
    """Part of a file has no room for what it would hold without a person's values; the file must be written anew."""


class ClockDoubtful(StorageError, RuntimeError):
    """This machine's clock contradicts what the table's writers noted, so nothing is removed by age."""


class RowsReplaced(StorageError, RuntimeError):
    """A follower of appended rows met a version that replaced all rows."""


class SourceFailed(StorageError, OSError):
    """A store that holds files answered with an error, or not at all."""


class ExtraMissing(StorageError, ImportError):
    """What was asked for needs a package of one of the extras; the message names it."""


class UnknownQuantisation(StorageError, ValueError):
    """A storage format that does not exist, or an error bound that is none; the message lists the formats."""


class BadLocation(StorageError, ValueError):
    """A URL that leads nowhere the store knows; the message says what it takes."""


class WrongKeyType(StorageError, TypeError):
    """Ids of one kind were asked for in a table whose erase key holds another."""


class BadKey(StorageError, ValueError):
    """A key file that is missing, no key, or readable by others; the message never repeats what it holds."""


class RequestMalformed(StorageError, ValueError):
    """Bytes that are no signed request, receipt or proof."""


class RequestRefused(StorageError, PermissionError):
    """An erasure that may not be done: nobody who may has signed it, it was seen before, is too late, or a hold forbids it."""


class RegisterTampered(StorageError, ValueError):
    """The register of erasures is not what its signer wrote: an entry was changed, taken out, or put in."""


def no_such_column(where: object, name: str, known: Sequence[str]) -> NoSuchColumn:
    """The error for a column that is not among those known, with the one that comes nearest.

    >>> no_such_column("clicks", "lable", ["user", "label"]).args[0]
    "clicks: has no column 'lable'; did you mean 'label'?"
    """
    near = get_close_matches(name, known[:SEARCHED_NAMES], 1)
    hint = (
        f"did you mean {near[0]!r}?"
        if near
        else f"it has {list(known[:20])}{' and more' * (len(known) > 20)}"
    )
    return NoSuchColumn(f"{where}: has no column {name!r}; {hint}")
