"""What one commit writes down: files added, attachments, who committed, and a hash chain to what came before.

One JSON file per version, for people as much as for programs. Version v lists its own files and, once in a while, again
those of the versions before it: v covers the span (since, v], where v - since is the largest power of 8 that divides v.
Walking from v to ``since`` to its ``since`` therefore lists a table of 10,000 commits from at most 28 manifests, and
all manifests together grow as n log n (Fenwick, 1994, with base 8). Each step carries the hash of the next, so the
newest manifest pins every one it leads to, and through file roots every byte of data.

What holds from one version to the next until somebody changes it is ``Standing``. A manifest that uses something which
an older reader would misread says so in ``required_features``. Fields that were added later have defaults and are left
out where they say nothing, so tables of earlier commits stay readable and plain ones look as they always did.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from blake3 import blake3

from headrace.storage.errors import CorruptManifest, UnsupportedFeature
from headrace.storage.objects import Place
from headrace.storage.parting import PartitionBy, Retention
from headrace.storage.paths import inside

FORMAT = 1
BASE = 8
FOLDER, DATA, ATTACHMENTS, MEDIA, MARKERS = "_manifest", "data", "attachments", "media", "_collected"
HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
FILE_NAME = re.compile(r"(\d{20})\.json", re.ASCII)
OPERATIONS = (
    "create",
    "append",
    "overwrite",
    "compact",
    "evolve",
    "gc",
    "fence",
    "erase",
    "repair",
    "expire",
)
KNOWN_FEATURES = frozenset(
    {
        "checkpoints",
        "column-families",
        "evolved-columns",
        "partitions",
        "replaced-files",
        "retention",
        "suppression",
    }
)
"""What a manifest may require of a reader; see ``FORMAT.md`` section 9.3."""


@dataclass(frozen=True)
class Family:
    """Columns of a data file that were added after it was written: a file of as many rows, joined by position."""

    path: str
    bytes: int
    uuid: str
    erase_epoch: int
    root: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Order:
    """By which column the rows of a file are sorted.

    ``values`` are those of the first row of each row group and of the last row, None for null and NaN; there are none
    where they could tell of a person.
    """

    column: str
    descending: bool = False
    values: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class DataFile:
    """One file of a table: what a reader checks before it trusts it. Small, picklable, and plain JSON.

    ``tags`` is the writer's own note about the file (a partition, a largest event time): JSON values only.

    Attributes:
        staged_at: the version its writer saw; a table whose garbage collection went past it takes the file no more.
        partition: of a partitioned table, by column, the value or the bucket that all rows have.
        families: columns joined to it.
        order: how its rows are sorted, if they are.
        media: side files that its rows refer to.
    """

    path: str
    rows: int
    bytes: int
    uuid: str
    erase_epoch: int
    root: str
    deleted: int = 0
    tags: Mapping[str, Any] = field(default_factory=dict)
    staged_at: int = 0
    partition: Mapping[str, Any] = field(default_factory=dict)
    families: tuple[Family, ...] = ()
    order: Order | None = None
    media: tuple[Attachment, ...] = ()


@dataclass(frozen=True)
class Attachment:
    """Opaque bytes that travel with a commit, in a file of their own."""

    name: str
    path: str
    bytes: int
    blake3: str


@dataclass(frozen=True)
class Keyed:
    """The commit of one batch of one query, or of all its batches up to ``through``, whose versions have expired."""

    query_id: str
    batch_id: int
    version: int
    through: int | None = None


@dataclass(frozen=True)
class Span:
    """What the versions between ``since`` and this one add up to.

    ``cleared_at`` is the last of them that replaced all files, 0 if none did; files from before it are not listed.
    """

    files: tuple[tuple[int, DataFile], ...] = ()
    removed: tuple[str, ...] = ()
    keys: tuple[Keyed, ...] = ()
    cleared_at: int = 0


@dataclass(frozen=True)
class Fence:
    """Who may commit batches of a query: the driver that drew ``epoch``, the highest so far."""

    query_id: str
    epoch: int
    holder: str


@dataclass(frozen=True)
class Standing:
    """What a version hands on to the next.

    Attributes:
        horizon: the oldest version that is kept; earlier ones have expired.
        checkpoint: the newest version that lists all files itself, 0 if none does; no walk leads below it.
        staged_since: files staged at an earlier version are no longer taken, garbage collection may have removed them.
        fences: of queries that have one.
        evolved_at: the version that last changed columns, 0 if none did.
        stored_as: of columns that files hold under another name, by name.
        retired: names in files that no new column may be stored under.
        partition_by: how rows are parted into files.
        retention: how long rows may be kept, which parts them too.
        erase_epoch: how many erasures the table has seen.
        suppression: the file that says which persons' rows are hidden, and who must not come back.
        closed_before: versions before it name files that an erase has replaced, and can no longer be read.
    """

    horizon: int = 1
    checkpoint: int = 0
    staged_since: int = 0
    fences: tuple[Fence, ...] = ()
    evolved_at: int = 0
    stored_as: Mapping[str, str] = field(default_factory=dict)
    retired: tuple[str, ...] = ()
    partition_by: tuple[PartitionBy, ...] = ()
    retention: Retention | None = None
    erase_epoch: int = 0
    suppression: Attachment | None = None
    closed_before: int = 0

    def fence(self, query_id: str) -> Fence | None:
        """A query's fence, if it has one."""
        return next((found for found in self.fences if found.query_id == query_id), None)


@dataclass(frozen=True)
class Manifest:
    """One version of a table."""

    format: int
    required_features: tuple[str, ...]
    version: int
    parent_blake3: str
    since: int
    since_blake3: str
    operation: str
    transaction: str
    key: tuple[str, int] | None
    schema_blake3: str
    erase_key: str | None
    personal: tuple[str, ...]
    added: tuple[DataFile, ...]
    removed: tuple[str, ...]
    attachments: tuple[Attachment, ...]
    n_files: int
    n_rows: int
    committed_at_ms: int
    root: str
    span: Span = Span()
    standing: Standing = Standing()

    @property
    def replaces_all(self) -> bool:
        """Whether no file of an earlier version is part of this one."""
        return self.operation == "overwrite"

    @property
    def is_checkpoint(self) -> bool:
        """Whether it lists all files itself, so that nothing before it is needed."""
        return self.standing.checkpoint == self.version


def since(version: int) -> int:
    """The version that ``version`` leads to: it repeats everything after that one.

    >>> [since(version) for version in (1, 7, 8, 9, 64, 72)]
    [0, 6, 0, 8, 0, 64]
    """
    step = 1
    while version % (step * BASE) == 0:
        step *= BASE
    return version - step


def encode(manifest: Manifest) -> bytes:
    """The bytes of a manifest; indented, because people read them, and without what says nothing."""
    plain = msgspec.to_builtins(manifest)
    for file in (*plain["added"], *(file for _, file in plain["span"]["files"])):
        _leave_out(file, _FILE_DEFAULTS)
    for keyed in plain["span"]["keys"]:
        _leave_out(keyed, {"through": None})
    _leave_out(
        plain.setdefault("standing", {}), _STANDING_DEFAULTS
    )  # msgspec leaves out defaults it never set
    _leave_out(plain, {"standing": {}})
    return msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n"


_STANDING_DEFAULTS: dict[str, Any] = msgspec.to_builtins(Standing())
_FILE_DEFAULTS: dict[str, Any] = {
    name: value
    for name, value in msgspec.to_builtins(DataFile("", 0, 0, "", 0, "")).items()
    if name in ("staged_at", "partition", "families", "order", "media")
}


def _leave_out(written: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    for name, value in defaults.items():
        if written.get(name, value) == value:
            written.pop(name, None)


def features(manifest: Manifest) -> tuple[str, ...]:
    """What a reader must know to read ``manifest`` and those it leads to rightly: what its parent needed, and its own."""
    standing, again = manifest.standing, {file.path for file in manifest.added}
    needs = {
        "checkpoints": standing.checkpoint > 0,
        "column-families": any(file.families for file in manifest.added),
        "partitions": bool(standing.partition_by),
        "retention": standing.retention is not None,
        "replaced-files": not again.isdisjoint(manifest.removed),
        "evolved-columns": standing.evolved_at > 0,
        "suppression": standing.suppression is not None,
    }
    return tuple(sorted({*manifest.required_features, *(name for name, needed in needs.items() if needed)}))


def decode(data: bytes, version: int, where: str) -> Manifest:
    """Parse and check one manifest.

    Raises:
        CorruptManifest: not well formed, or not of that version.
        UnsupportedFeature: a newer format, or a feature this reader lacks, named.
    """
    try:
        head = _HEAD.decode(data)
        unknown = [name for name in head.required_features if name not in KNOWN_FEATURES]
        if head.format != FORMAT or unknown:
            needs = ", ".join(unknown) or f"manifest format {head.format}"
            raise UnsupportedFeature(f"{where}: needs {needs}, which this reader lacks; update headrace")
        manifest = _MANIFEST.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptManifest(f"{where}: not a manifest: {error}; restore it from a copy") from error
    if manifest.operation not in OPERATIONS:
        raise UnsupportedFeature(
            f"{where}: has the operation {manifest.operation!r}, expected one of {OPERATIONS}"
        )
    shaped = 0 <= manifest.since < version and HASH.fullmatch(manifest.schema_blake3)
    if manifest.version != version or not shaped:
        raise CorruptManifest(
            f"{where}: expected version {version}, got {manifest.version} since {manifest.since}; restore it from a copy"
        )
    return manifest


@dataclass(frozen=True)
class _Head:
    format: int
    required_features: tuple[str, ...]


_HEAD = msgspec.json.Decoder(_Head)
_MANIFEST = msgspec.json.Decoder(Manifest)


def digest(data: bytes) -> str:
    """BLAKE3 of a manifest or attachment, in hex."""
    return str(blake3(data).hexdigest())


def files_root(below: str, entries: tuple[DataFile, ...], removed: tuple[str, ...]) -> str:
    """A hash over the table's files: over the root of the version walked to, and over this one's files and removals."""
    hasher = blake3(b"headrace files root" + below.encode())
    for file in sorted(entries, key=lambda entry: entry.path):
        hasher.update(f"\n+{file.path} {file.uuid} {file.erase_epoch} {file.root}".encode())
        for family in file.families:
            hasher.update(f"\n&{family.path} {family.uuid} {family.erase_epoch} {family.root}".encode())
        for side in file.media:
            hasher.update(f"\n&{side.path} {side.bytes} {side.blake3}".encode())
    for path in sorted(removed):
        hasher.update(f"\n-{path}".encode())
    return str(hasher.hexdigest())


@dataclass(frozen=True)
class Commit:
    """One committed version. ``replayed`` means that its key had been committed before and nothing was added now."""

    version: int
    operation: str
    transaction: str
    key: tuple[str, int] | None
    files: tuple[DataFile, ...]
    attachments: tuple[Attachment, ...]
    committed_at_ms: int
    table: Place
    replayed: bool = False

    @property
    def num_rows(self) -> int:
        """Rows this commit added, without those that were erased before it was published."""
        return sum(file.rows - file.deleted for file in self.files)

    def attachment(self, name: str) -> bytes:
        """The bytes committed under ``name``.

        Raises:
            KeyError: there is no such attachment.
            CorruptManifest: the file's bytes are not those that were committed.
        """
        for entry in self.attachments:
            if entry.name == name:
                path = inside(self.table, entry.path, ATTACHMENTS)
                data = path.read_bytes() if path.is_file() and path.stat().st_size == entry.bytes else b""
                got = digest(data)
                if got != entry.blake3:
                    raise CorruptManifest(
                        f"{path}: attachment {name!r} of version {self.version} is missing or damaged: expected "
                        f"{entry.bytes} bytes of hash {entry.blake3}, got hash {got}; restore it from a copy"
                    )
                return data
        names = [entry.name for entry in self.attachments]
        raise KeyError(f"version {self.version} has no attachment {name!r}; it has {names}")


def commit_of(manifest: Manifest, table: Place, *, replayed: bool = False) -> Commit:
    """The public view of a manifest."""
    return Commit(
        manifest.version,
        manifest.operation,
        manifest.transaction,
        manifest.key,
        manifest.added,
        manifest.attachments,
        manifest.committed_at_ms,
        table,
        replayed,
    )
