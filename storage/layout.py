"""The fixed-width records of a file, as structs and numpy dtypes: ``FORMAT.md`` sections 2 to 5 in code.

Everything is little-endian. This module only packs and unpacks; what the numbers mean together is checked where they
are used (``footer``, ``page``). Sections and features that exist on paper only have a number here and no code.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
from blake3 import blake3

from headrace.storage.errors import BadFile, UnsupportedFeature

MAGIC = b"HRC1"
TRAILER_MAGIC = b"HRCT"
MAJOR, MINOR = 1, 1
ALIGN_BYTES = 64
STREAM_ALIGN_BYTES = 16  # enough for every numpy dtype; 64 would cost 1 % on small pages
LEAF_BYTES = 2048
HASH_BYTES = 16
NONCE_BYTES = 16
BLOCK_ROWS = 1024
PAGE_BLOCKS = 8
GROUP_ROWS = 65_536
TRAILER_SLOT_BYTES = 4096  # one slot per disk page, so that a torn write damages at most one copy
HEADER_COPY_AT = 128  # in each trailer slot, so that the end of a file is enough to open it from afar

SECTION_NAMES = {
    1: "NAME_INDEX",
    2: "COLUMN",
    3: "NAMES",
    4: "CHUNK",
    5: "PAGE",
    6: "ENC_TREES",
    7: "STATS",
    8: "DELETION",
    9: "MERKLE",
    10: "ARROW_SCHEMA",
    11: "KEY_VALUE",
    12: "SORT_CLUSTER",
    13: "ERASE_LOG",
    14: "DICT",
    15: "QUANTISATION",
    16: "META",
}
NAME_INDEX, COLUMN, NAMES, CHUNK, PAGE, STATS, DELETION, KEY_VALUE, DICT, QUANTISATION, META = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    11,
    14,
    15,
    16,
)
SECTION_REQUIRED = 1

# Bit numbers of ``required_features`` that have a meaning, known to this reader or not.
FEATURE_NAMES = {
    0: "file-wide dictionaries",
    1: "nested columns",
    2: "quantised storage",
    3: "encoding trees",
    4: "encrypted pages",
    5: "external blobs",
    6: "following sequences",
    7: "clustered lists",
    8: "footer leaves of 2,048 bytes",
}
FILE_DICTIONARIES, NESTED, QUANTISED, FOLLOWING, CLUSTERED_LISTS = 1 << 0, 1 << 1, 1 << 2, 1 << 6, 1 << 7
SMALL_LEAVES = 1 << 8  # every file from 1.1 on; leaves were of 4,096 bytes before
KNOWN_FEATURES = FILE_DICTIONARIES | NESTED | QUANTISED | FOLLOWING | CLUSTERED_LISTS | SMALL_LEAVES

PAGE_FIELDS = struct.Struct("<QIIIIHHI16s")
"""A row of PAGE; ``PAGE_ROW`` names its fields."""
DICT_FIELDS = struct.Struct("<QIIIIII16s")
HEADER = struct.Struct("<4sHHQQ16sQQ8s")
TRAILER = struct.Struct("<4sHHQQQIIQQQ16s32s16s")
SECTION = np.dtype([("id", "<u4"), ("flags", "<u4"), ("off", "<u8"), ("len", "<u8"), ("rows", "<u8")])
META_ROW = np.dtype(
    [
        ("n_rows", "<u8"),
        ("n_columns", "<u4"),
        ("n_top", "<u4"),
        ("n_groups", "<u4"),
        ("group_rows", "<u4"),
        ("n_buckets", "<u4"),
        ("bucket_slots", "<u4"),
        ("n_pages", "<u4"),
        ("n_dicts", "<u4"),
        ("reserved", "V24"),
    ]
)
NAME_SLOT = np.dtype([("hash", "<u8"), ("column", "<u4"), ("check", "<u4")])  # column: id + 1, 0 = empty
COLUMN_ROW = np.dtype(
    [
        ("name_hash", "<u8"),
        ("name_off", "<u4"),
        ("name_len", "<u2"),
        ("logical", "u1"),
        ("storage", "u1"),
        ("parent", "<u4"),
        ("first_child", "<u4"),
        ("n_children", "<u2"),
        ("flags", "<u2"),
        ("type_param", "<u4"),
        ("null_count", "<u8"),
        ("item_logical", "u1"),
        ("item_storage", "u1"),
        ("param_len", "<u2"),
        ("param_off", "<u4"),
        ("stats", "<u4"),
        ("quant", "<u4"),
        ("dict", "<u4"),
        ("leader", "<u4"),
    ]
)
NO_ROW = 0xFFFF_FFFF
NULLABLE, PERSONAL, ERASE_KEY, IS_LIST, IS_FIXED_LIST, ITEM_NULLABLE = 1, 2, 4, 8, 16, 32
HIDDEN, CLUSTERED, FOLLOWS, DESCRIBED = (
    64,
    128,
    256,
    512,
)  # of COLUMN flags too: see FORMAT.md, sections 5.3 and 6.1
STATS_BYTES = 32
CHUNK_ROW = np.dtype(
    [
        ("off", "<u8"),
        ("len", "<u8"),
        ("first_page", "<u4"),
        ("n_pages", "<u2"),
        ("enc_tree", "<u2"),
        ("dict", "<u4"),  # row of DICT + 1, 0 = none
        ("null_count", "<u4"),
    ]
)
PAGE_ROW = np.dtype(
    [
        ("off", "<u8"),
        ("slot_len", "<u4"),
        ("used_len", "<u4"),
        ("first_row", "<u4"),
        ("n_rows", "<u4"),
        ("n_blocks", "<u2"),
        ("enc_tree", "<u2"),
        ("null_count", "<u4"),
        ("hash", "V16"),
    ]
)
DICT_ROW = np.dtype(
    [
        ("off", "<u8"),
        ("slot_len", "<u4"),
        ("used_len", "<u4"),
        ("n_entries", "<u4"),
        ("column", "<u4"),
        ("flags", "<u4"),
        ("reserved", "<u4"),
        ("hash", "V16"),
    ]
)


@dataclass(frozen=True)
class Header:
    """The first 64 bytes of a file. ``hash_seed`` keys the name index; it is not the caller's seed."""

    uuid: bytes
    hash_seed: int
    required_features: int = 0
    optional_features: int = 0
    major: int = MAJOR
    minor: int = MINOR

    def pack(self) -> bytes:
        """The 64 bytes, hash included."""
        args = (
            self.major,
            self.minor,
            self.required_features,
            self.optional_features,
            self.uuid,
            self.hash_seed,
        )
        body = HEADER.pack(MAGIC, *args, 0, bytes(8))[:-8]
        return body + blake3(body).digest(length=8)


@dataclass(frozen=True)
class Trailer:
    """One of the two copies of where the footer is and what it must hash to."""

    uuid: bytes
    file_len: int
    footer_off: int
    footer_len: int
    n_sections: int
    tree_off: int
    erase_epoch: int
    n_rows: int
    root: bytes
    major: int = MAJOR
    minor: int = MINOR

    def pack(self) -> bytes:
        """The 128 bytes, hash included."""
        args = (self.file_len, self.footer_off, self.footer_len, self.n_sections, 0, self.tree_off)
        tail = (self.erase_epoch, self.n_rows, self.uuid, self.root, bytes(16))
        body = TRAILER.pack(TRAILER_MAGIC, self.major, self.minor, *args, *tail)[:-16]
        return body + hash16(body)


def hash16(data: bytes | memoryview) -> bytes:
    """128-bit BLAKE3."""
    return blake3(data).digest(length=HASH_BYTES)


def aligned(offset: int, to: int = ALIGN_BYTES) -> int:
    """The next multiple of ``to`` at or after ``offset``."""
    return -(-offset // to) * to


def parse_header(raw: bytes, file: str) -> Header:
    """Check and unpack the header.

    Raises:
        BadFile: wrong magic or hash.
        UnsupportedFeature: sound, but for a newer reader.
    """
    if len(raw) != HEADER.size or raw[:4] != MAGIC:
        raise BadFile(
            f"{file}: expected a file starting with {MAGIC!r}, got {bytes(raw[:4])!r}; not a headrace file"
        )
    _, major, minor, required, optional, uuid, seed, reserved, digest = HEADER.unpack(raw)
    got = blake3(raw[:-8]).digest(length=8)
    if got != digest or reserved:
        raise BadFile(
            f"{file}: header damaged: expected hash {digest.hex()}, got {got.hex()}; restore it from a copy"
        )
    if major != MAJOR:
        raise UnsupportedFeature(
            f"{file}: written in format {major}.{minor}, this reader knows {MAJOR}.x; update it"
        )
    unknown = required & ~KNOWN_FEATURES
    if unknown:
        names = [FEATURE_NAMES.get(bit, f"bit {bit}") for bit in range(64) if unknown >> bit & 1]
        raise UnsupportedFeature(
            f"{file}: needs features this reader lacks: {', '.join(names)}; update headrace"
        )
    return Header(uuid, seed, required, optional, major, minor)


def parse_trailer(raw: bytes) -> Trailer | None:
    """One trailer copy, or None when it fails its hash (the other copy may be sound)."""
    if len(raw) != TRAILER.size or raw[:4] != TRAILER_MAGIC or hash16(raw[:-16]) != raw[-16:]:
        return None
    _, major, minor, length, off, size, n_sections, reserved, tree, epoch, rows, uuid, root, _ = (
        TRAILER.unpack(raw)
    )
    if reserved:
        return None
    return Trailer(uuid, length, off, size, n_sections, tree, epoch, rows, root, major, minor)


def root_hash(header: bytes, trailer: Trailer, top: bytes) -> bytes:
    """256-bit root over a whole file.

    ``top`` is the top node of the footer's hash tree; the footer holds the hash of every page and dictionary, so the
    root pins all of them, the header, and the trailer's own numbers.
    """
    args = (trailer.file_len, trailer.footer_off, trailer.footer_len, trailer.n_sections, trailer.tree_off)
    numbers = struct.pack("<5Q2Q", *args, trailer.erase_epoch, trailer.n_rows)
    return blake3(b"HRC1 root" + header + trailer.uuid + numbers + top).digest()


def sealed(header: bytes, unrooted: Trailer, top: bytes) -> tuple[Trailer, bytes]:
    """The trailer with its root, and the two slots at the end of a file, each with a copy of it and of the header."""
    trailer = replace(unrooted, root=root_hash(header, unrooted, top))
    return trailer, (trailer.pack() + header).ljust(TRAILER_SLOT_BYTES, b"\0") * 2


assert META_ROW.itemsize == 64, META_ROW.itemsize
assert COLUMN_ROW.itemsize == 64, COLUMN_ROW.itemsize
assert CHUNK_ROW.itemsize == 32, CHUNK_ROW.itemsize
assert PAGE_ROW.itemsize == 48, PAGE_ROW.itemsize
assert DICT_ROW.itemsize == 48, DICT_ROW.itemsize
