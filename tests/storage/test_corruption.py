"""Damaged and hostile bytes: an error of the store, or provably the same rows; never other rows, never much memory."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.storage import layout, page
from headrace.storage.errors import BadFile, CorruptFooter, CorruptPage, StorageError, UnsupportedFeature
from headrace.storage.reader import File, read_file
from headrace.storage.writer import Writer

from .bits import same_table
from .forge import ROWS, Forged, hostile


def small() -> pa.Table:
    return pa.table(
        {
            "user": pa.array([2**40 + i * 977 for i in range(50)]),
            "word": pa.array([["one", "two", None][i % 3] for i in range(50)]),
            "kind": pa.array(["impression", "impression", "click", "impression", "view"] * 10),
            "items": pa.array(
                [[i, i * i, -i][: i % 4] if i % 7 else None for i in range(50)], pa.list_(pa.int32())
            ),
            "price": pa.array([i / 7 for i in range(50)], pa.float32()),
        }
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("small") / "f"
    with Writer(path, small().schema, seed=11) as writer:
        writer.write(small())
        writer.close()
    return path.read_bytes()


def put(path: Path, data: bytes | bytearray) -> None:
    """Overwrite in place where the length stays: thousands of new files are slow on a journalled disk."""
    if not path.exists() or path.stat().st_size != len(data):
        path.write_bytes(data)
        return
    with path.open("r+b") as file:
        file.write(data)


def outcome(path: Path, data: bytes | bytearray) -> str:
    """What reading everything gives: the error's name, or "same"; anything else fails the test."""
    put(path, data)
    try:
        back = pa.Table.from_batches(read_file(path))
    except StorageError as error:
        return type(error).__name__ if str(path) in str(error) else "an error that does not name the file"
    assert same_table(back, small()), "other rows than were written"
    return "same"


def regions(raw: bytes) -> dict[str, list[int]]:
    """Every byte of the file by what it is."""
    forged, kind = Forged(raw), ["padding"] * len(raw)

    def mark(name: str, off: int, length: int) -> None:
        kind[off : off + length] = [name] * length

    mark("header", 0, 64)
    for section in (layout.PAGE, layout.DICT):
        for row in forged.rows(section):
            off, used = int(row["off"]), int(row["used_len"])
            mark("page body", off, used)
            mark("page head", off, layout.NONCE_BYTES + page.HEAD.size)
    it = forged.trailer
    mark("footer", it.footer_off, it.footer_len)
    mark("hash tree", it.tree_off, layout.HASH_BYTES * -(-it.footer_len // layout.LEAF_BYTES))
    for name, at in (("trailer A", 2), ("trailer B", 1)):
        mark(name, len(raw) - at * layout.TRAILER_SLOT_BYTES, layout.TRAILER.size)
    found: dict[str, list[int]] = {}
    for off, name in enumerate(kind):
        found.setdefault(name, []).append(off)
    return found


def test_bit_flips_everywhere(raw: bytes, tmp_path: Path) -> None:
    rng = random.Random(5)
    seen: Counter[tuple[str, str]] = Counter()
    for name, offsets in regions(raw).items():
        for off in rng.choices(offsets, k=350):
            flipped = bytearray(raw)
            flipped[off] ^= 1 << rng.randrange(8)
            seen[name, outcome(tmp_path / "f", flipped)] += 1
    assert sum(seen.values()) >= 2000
    caught = {name for name, result in seen if result != "same"}
    unharmed = {name for name, result in seen if result == "same"}
    assert caught == {"header", "page head", "page body", "footer", "hash tree"}
    assert unharmed == {
        "padding",
        "trailer A",
        "trailer B",
    }  # zeros nobody reads, and two copies of one trailer


def test_every_bit_of_the_file_but_its_padding_and_second_trailer_matters(raw: bytes, tmp_path: Path) -> None:
    where = regions(raw)
    slot = layout.TRAILER_SLOT_BYTES
    both = [(off, off + slot) for off in where["trailer A"]]
    for pair in both:
        flipped = bytearray(raw)
        for off in pair:
            flipped[off] ^= 0x10
        assert outcome(tmp_path / "f", flipped) == "BadFile"


def test_every_truncation_is_refused(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(raw)
    for length in range(len(raw) - 1, -1, -1):
        with path.open("r+b") as file:
            file.truncate(length)
        with pytest.raises(BadFile, match=str(path)):
            File(path)


def test_growth_and_zeroed_or_swapped_pieces_are_refused(raw: bytes, tmp_path: Path) -> None:
    slot = layout.TRAILER_SLOT_BYTES
    assert outcome(tmp_path / "f", raw + bytes(slot)) == "BadFile"
    assert outcome(tmp_path / "f", raw[:-slot] + bytes(slot)) == "same"  # the other trailer copy is whole
    assert outcome(tmp_path / "f", raw[: -2 * slot] + bytes(2 * slot)) == "BadFile"
    pages = Forged(raw).rows(layout.PAGE)
    spans = [(int(row["off"]), int(row["used_len"])) for row in pages]
    for off, used in spans:
        assert outcome(tmp_path / "f", raw[:off] + bytes(used) + raw[off + used :]) == "CorruptPage"
        for other, other_used in spans:
            if other != off:
                n = min(used, other_used)
                moved = raw[:off] + raw[other : other + n] + raw[off + n :]
                assert outcome(tmp_path / "f", moved) == "CorruptPage"


def test_a_page_of_a_sibling_file_is_refused(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sibling"
    with Writer(path, small().schema, seed=12) as writer:
        writer.write(small())
        writer.close()
    sibling = path.read_bytes()
    off, used = (int(Forged(raw).rows(layout.PAGE)[0][name]) for name in ("off", "used_len"))
    mixed = raw[:off] + sibling[off : off + used] + raw[off + used :]
    assert outcome(tmp_path / "f", mixed) == "CorruptPage"


def test_damage_is_named_and_stays_where_it_is(raw: bytes, tmp_path: Path) -> None:
    row = Forged(raw).rows(layout.PAGE)[-1]
    flipped = bytearray(raw)
    flipped[int(row["off"]) + 40] ^= 1
    path = tmp_path / "f"
    path.write_bytes(flipped)
    with pytest.raises(CorruptPage) as caught:
        list(read_file(path, ["price"]))
    assert (caught.value.column, caught.value.page, caught.value.offset) == ("price", 4, int(row["off"]))
    assert caught.value.expected == row["hash"].tobytes().hex() != caught.value.got
    rest = pa.Table.from_batches(read_file(path, ["user", "kind"]))
    assert same_table(rest, small().select(["user", "kind"]))


def test_a_required_feature_is_refused_by_name(raw: bytes, tmp_path: Path) -> None:
    for bits, name in ((1, "file-wide dictionaries"), (1 << 4, "encrypted pages"), (1 << 63, "bit 63")):
        forged = Forged(raw)
        forged.header_features(bits)
        (tmp_path / "f").write_bytes(forged.bytes())
        with pytest.raises(UnsupportedFeature, match=name):
            File(tmp_path / "f")


def test_sections_unknown_or_lacking(raw: bytes, tmp_path: Path) -> None:
    """The DICT row of the directory is renumbered: as an optional unknown it is skipped, and then missed."""
    for number, flags, error, said in (
        (7, 1, UnsupportedFeature, "STATS"),
        (999, 1, UnsupportedFeature, "section 999"),
        (999, 0, CorruptFooter, "DICT"),
    ):
        forged = Forged(raw)
        row = forged.directory()[-2]
        assert row["id"] == layout.DICT
        row["id"], row["flags"] = number, flags
        forged.sections[layout.DICT] = (0, 0)
        (tmp_path / "f").write_bytes(forged.bytes())
        with pytest.raises(error, match=said):
            File(tmp_path / "f")


class _Newer(Writer):
    """A writer that knows one more section than the reader."""

    flags = 0

    def _sections(self) -> list[tuple[int, int, int, bytes]]:
        return [(500, self.flags, 7, b"of a later version"), *super()._sections()]


def test_a_later_versions_section_is_skipped_if_optional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flags in (0, layout.SECTION_REQUIRED):
        monkeypatch.setattr(_Newer, "flags", flags)
        with _Newer(tmp_path / str(flags), small().schema) as writer:
            writer.write(small())
            writer.close()
    assert same_table(pa.Table.from_batches(read_file(tmp_path / "0")), small())
    with pytest.raises(UnsupportedFeature, match="section 500"):
        File(tmp_path / "1")


def test_hostile_numbers_in_every_footer_field(raw: bytes, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    tracemalloc.start()
    for section, dtype in ROWS.items():
        n = len(Forged(raw).rows(section))
        for index in sorted({0, n // 2, n - 1}):
            for name in dtype.names or ():
                if dtype[name].kind != "u":
                    continue
                honest = int(Forged(raw).rows(section)[index][name])
                for number in hostile(dtype[name].itemsize, honest, len(raw)):
                    forged = Forged(raw)
                    forged.rows(section)[index][name] = number
                    seen[lenient(tmp_path / "f", forged.bytes())] += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    assert seen["CorruptFooter"] > 100
    assert sum(seen.values()) > 800


def lenient(path: Path, data: bytes) -> str:
    """Like ``outcome``, for a writer who means it: a well-formed file may hold other rows, but must not do harm."""
    put(path, data)
    try:
        rows = sum(batch.num_rows for batch in read_file(path))
    except StorageError as error:
        return type(error).__name__
    assert rows <= 50
    return "read"


def test_hostile_numbers_in_every_page_and_stream(raw: bytes, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    tracemalloc.start()
    for section in (layout.PAGE, layout.DICT):
        for row in Forged(raw).rows(section):
            start = int(row["off"]) + layout.NONCE_BYTES
            n_streams = int.from_bytes(raw[start + 6 : start + 8], "little")
            fields = [(0, 4), (4, 1), (5, 1), (6, 2), (8, 4), (12, 4)]
            for stream in range(n_streams):
                at = page.HEAD.size + stream * page.STREAM.size
                fields += [(at, 1), (at + 1, 1), (at + 2, 2), (at + 4, 4), (at + 8, 4), (at + 12, 4)]
            for off, width in fields:
                honest = int.from_bytes(raw[start + off : start + off + width], "little")
                for number in hostile(width, honest, int(row["used_len"])):
                    forged = Forged(raw)
                    forged.patch(start + off, number.to_bytes(width, "little"))
                    seen[lenient(tmp_path / "f", forged.bytes())] += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    assert seen["CorruptPage"] > 200, seen
    assert seen["UnsupportedFeature"] > 50, seen
    assert sum(seen.values()) > 650


def test_random_bytes_in_streams_never_crash(raw: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows = Forged(raw).rows(layout.PAGE)
    seen: Counter[str] = Counter()
    for _ in range(400):
        row = rows[rng.integers(len(rows))]
        off, used = int(row["off"]), int(row["used_len"])
        body = off + int(rng.integers(layout.NONCE_BYTES, used))
        forged = Forged(raw)
        forged.patch(body, rng.bytes(min(int(rng.integers(1, 9)), off + used - body)))
        seen[lenient(tmp_path / "f", forged.bytes())] += 1
    assert seen["read"] > 0
    assert seen["CorruptPage"] > 0


def test_other_files_are_not_ours(tmp_path: Path) -> None:
    for data in (b"", b"PAR1", b"\0" * 20_000, b"HRC1" + b"\0" * 20_000):
        (tmp_path / "f").write_bytes(data)
        with pytest.raises(BadFile):
            File(tmp_path / "f")
