"""Damaged and hostile bytes: an error of the store, or provably the same rows; never other rows, never much memory."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
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
from .rich import rich, write_rich


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


@pytest.fixture(scope="module", params=["balanced", "size"])
def every_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with pages of every kind."""
    return write_rich(tmp_path_factory.mktemp("rich") / "f", rich(), request.param)


def put(path: Path, data: bytes | bytearray) -> None:
    """Overwrite in place where the length stays: thousands of new files are slow on a journalled disk."""
    if not path.exists() or path.stat().st_size != len(data):
        path.write_bytes(data)
        return
    with path.open("r+b") as file:
        file.write(data)


def outcome(path: Path, data: bytes | bytearray, expected: pa.Table | None = None) -> str:
    """What reading everything gives: the error's name, or "same"; anything else fails the test."""
    put(path, data)
    try:
        back = pa.Table.from_batches(read_file(path))
    except StorageError as error:
        return type(error).__name__ if str(path) in str(error) else "an error that does not name the file"
    assert same_table(back, small() if expected is None else expected), "other rows than were written"
    return "same"


def regions(raw: bytes) -> dict[str, list[int]]:
    """Every byte of the file by what it is."""
    forged, kind = Forged(raw), ["padding"] * len(raw)

    def mark(name: str, off: int, length: int) -> None:
        kind[off : off + length] = [name] * length

    mark("header", 0, 64)
    for section, what in ((layout.PAGE, "page"), (layout.DICT, "dictionary")):
        for row in forged.rows(section):
            off, used = int(row["off"]), int(row["used_len"])
            mark(f"{what} body", off, used)
            mark(f"{what} head", off, layout.NONCE_BYTES + page.HEAD.size)
    it = forged.trailer
    mark("footer", it.footer_off, it.footer_len)
    # None is read with the rows of all columns: statistics serve filters, the index names, the others tools.
    for number in (layout.STATS, layout.KEY_VALUE, layout.QUANTISATION, layout.NAME_INDEX):
        if number in forged.sections:
            mark("footer read on demand", *forged.sections[number])
    mark("hash tree", it.tree_off, layout.HASH_BYTES * -(-it.footer_len // layout.LEAF_BYTES))
    for name, at in (("trailer A", 2), ("trailer B", 1)):
        mark(name, len(raw) - at * layout.TRAILER_SLOT_BYTES, layout.TRAILER.size)
    found: dict[str, list[int]] = {}
    for off, name in enumerate(kind):
        found.setdefault(name, []).append(off)
    return found


def test_bit_flips_everywhere(raw: bytes, tmp_path: Path) -> None:
    seen = flips(raw, small(), tmp_path / "f", each=60)
    assert sum(seen.values()) >= 500
    judge(seen)


def test_bit_flips_in_every_kind_of_page(every_kind: bytes, tmp_path: Path) -> None:
    """With the file of the other profile, these are 2,000 flips and more."""
    (tmp_path / "f").write_bytes(every_kind)
    whole = pa.Table.from_batches(read_file(tmp_path / "f"))
    exact = [name for name in whole.column_names if name != "level"]  # which was allowed to lose precision
    assert same_table(whole.select(exact), rich().select(exact))
    seen = flips(every_kind, whole, tmp_path / "f", each=105)
    assert sum(seen.values()) >= 1000
    judge(seen)


def flips(raw: bytes, expected: pa.Table, path: Path, each: int, seed: int = 5) -> Counter[tuple[str, str]]:
    """Single flipped bits, so many in each region: what reading everything gave, by region."""
    rng = random.Random(seed)
    seen: Counter[tuple[str, str]] = Counter()
    for name, offsets in regions(raw).items():
        for off in rng.choices(offsets, k=each):
            flipped = bytearray(raw)
            flipped[off] ^= 1 << rng.randrange(8)
            seen[name, outcome(path, flipped, expected)] += 1
    return seen


def judge(seen: Counter[tuple[str, str]]) -> None:
    """No flip of a byte that is read may go unnoticed; those of others change nothing."""
    caught = {name for name, result in seen if result != "same"}
    unharmed = {name for name, result in seen if result == "same"}
    heads_and_bodies = {f"{what} {part}" for what in ("page", "dictionary") for part in ("head", "body")}
    assert heads_and_bodies | {"header", "footer", "hash tree"} <= caught
    # Zeros nobody reads, two copies of one trailer, and sections for filters and tools.
    # Of a footer of several leaves, those are checked that are read.
    on_demand = {"footer", "footer read on demand"}
    assert unharmed - on_demand == {"padding", "trailer A", "trailer B"}
    assert caught == heads_and_bodies | {"header", "footer", "hash tree"} | caught & on_demand


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
    truncations(tmp_path / "f", raw)


def truncations(path: Path, raw: bytes) -> None:
    """Every shorter file must be refused by name."""
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
    assert caught.value.file == str(path)
    assert (caught.value.column, caught.value.page, caught.value.offset) == ("price", 4, int(row["off"]))
    assert caught.value.expected == row["hash"].tobytes().hex() != caught.value.got
    rest = pa.Table.from_batches(read_file(path, ["user", "kind"]))
    assert same_table(rest, small().select(["user", "kind"]))


def test_a_required_feature_is_refused_by_name(raw: bytes, tmp_path: Path) -> None:
    lacking = ((1 << 4, "encrypted pages"), (1 << 5, "external blobs"), (1 << 63, "bit 63"))
    for bits, name in (*lacking, (layout.KNOWN_FEATURES | 1 << 40, "bit 40")):
        forged = Forged(raw)
        forged.header_features(bits)
        (tmp_path / "f").write_bytes(forged.bytes())
        with pytest.raises(UnsupportedFeature, match=name):
            File(tmp_path / "f")


def test_sections_unknown_or_lacking(raw: bytes, tmp_path: Path) -> None:
    """The DICT row of the directory is renumbered: as an optional unknown it is skipped, and then missed."""
    for number, flags, error, said in (
        (6, 1, UnsupportedFeature, "ENC_TREES"),
        (999, 1, UnsupportedFeature, "section 999"),
        (999, 0, CorruptFooter, "DICT"),
    ):
        forged = Forged(raw)
        directory = forged.directory()
        (at,) = np.flatnonzero(directory["id"] == layout.DICT)
        directory["id"][at], directory["flags"][at] = number, flags
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
    assert rows <= 60
    return "read"


def test_hostile_numbers_in_every_page_and_stream(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    few = write_rich(tmp_path / "few" / "f", rich(60, users=5))
    seen: Counter[str] = Counter()
    tracemalloc.start()
    for file in (raw, few):
        for start, used, off, width in numbers_of_pages(file):
            honest = int.from_bytes(file[start + off : start + off + width], "little")
            for number in hostile(width, honest, used):
                if file is few and number not in (1, 2**31, 2 ** (8 * width) - 1, honest + 1):
                    continue
                forged = Forged(file)
                forged.patch(start + off, number.to_bytes(width, "little"))
                seen[lenient(tmp_path / "f", forged.bytes())] += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    assert seen["CorruptPage"] > 200, seen
    assert seen["UnsupportedFeature"] > 50, seen
    assert sum(seen.values()) > 1300


def numbers_of_pages(raw: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Every number of every head and stream table: where the page starts, how long it is, the number's place and width."""
    for section in (layout.PAGE, layout.DICT):
        for row in Forged(raw).rows(section):
            start = int(row["off"]) + layout.NONCE_BYTES
            n_streams = int.from_bytes(raw[start + 6 : start + 8], "little")
            fields = [(0, 4), (4, 1), (5, 1), (6, 2), (8, 4), (12, 4)]
            for stream in range(n_streams):
                at = page.HEAD.size + stream * page.STREAM.size
                fields += [(at, 1), (at + 1, 1), (at + 2, 2), (at + 4, 4), (at + 8, 4), (at + 12, 4)]
            for off, width in fields:
                yield start, int(row["used_len"]), off, width


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
