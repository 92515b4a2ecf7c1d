"""Soak of the store: round trips with many examples, and damage to files of many shapes.

Every damaged file must give an error of the store or provably the rows that were written; ``tests/storage`` has the
short forms, on one small file. Flips, truncations, bombs and fuzzing do fifty times what they do there.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace import storage
from headrace.storage.errors import StorageError
from headrace.storage.reader import read_file
from headrace.storage.writer import Writer
from tests.storage.bits import same_table
from tests.storage.interleaving import interleave
from tests.storage.rich import rich, write_rich
from tests.storage.test_bombs import blow
from tests.storage.test_corruption import flips, judge, truncations
from tests.storage.test_fuzz import COMPILED, TRACED, fuzz
from tests.storage.test_take import few_blocks

from .item import Item, Room, Tried, properties
from .tables import ITEMS as TABLES


def any_table(rng: np.random.Generator, max_rows: int) -> pa.Table:
    """Rows of the kinds that the store has paths for: runs, few values, many values, nulls, lists, text."""
    n = int(rng.integers(1, max_rows + 1))
    nulls = rng.random(n) < rng.choice([0.0, 0.02, 0.9])
    lengths = rng.integers(0, 9, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    items = pa.array(rng.integers(-(2**40), 2**40, int(offsets[-1])))
    words = [f"w{k}" * int(rng.integers(1, 9)) for k in range(int(rng.integers(1, 200)))]
    return pa.table(
        {
            "user": pa.array(rng.integers(0, 2**62, n)),
            "clustered": pa.array(np.sort(rng.integers(0, 50, n).astype(np.int32))),
            "time": pa.array(np.cumsum(rng.integers(0, 10**6, n)), pa.timestamp("us", "UTC")),
            "price": pa.array(rng.standard_normal(n).astype(np.float32), mask=nulls),
            "flag": pa.array(rng.random(n) < 0.5, mask=nulls),
            "word": pa.array([words[k] for k in rng.integers(0, len(words), n)], mask=nulls),
            "items": pa.ListArray.from_arrays(pa.array(offsets), items),
        }
    )


def _written(folder: Path, rng: np.random.Generator, max_rows: int) -> tuple[Path, pa.Table]:
    table = any_table(rng, max_rows)
    path = folder / f"{rng.integers(2**62)}.hrc"
    pages, group = int(rng.choice([1, 4, 64])), int(rng.choice([1024, 8192, 65_536]))
    with Writer(
        path, table.schema, seed=int(rng.integers(2**31)), page_blocks=pages, group_rows=group
    ) as writer:
        writer.write(table)
        writer.close()
    return path, table


def _outcome(path: Path, expected: pa.Table) -> str:
    """The error's name, or "same"; other rows than were written are what must never come."""
    try:
        back = pa.Table.from_batches(read_file(path))
    except StorageError as error:
        return type(error).__name__
    assert same_table(back, expected), f"{path}: other rows than were written"
    return "same"


def files_come_back(seed: int, folder: Path, files: int = 60) -> Tried:
    """Larger files than Hypothesis would make, in row groups and pages of several sizes."""
    rng, rows = np.random.default_rng(seed), 0
    for _ in range(files):
        path, table = _written(folder, rng, 80_000)
        assert _outcome(path, table) == "same"
        rows += table.num_rows
        path.unlink()
    return Tried(files, {"rows": rows})


def bits_flipped(seed: int, folder: Path, files: int = 8, flips: int = 1000) -> Tried:
    """Single flipped bits anywhere in files of many shapes."""
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    seen: Counter[str] = Counter()
    for _ in range(files):
        path, table = _written(folder, rng, 3000)
        size = path.stat().st_size
        with path.open("r+b", buffering=0) as file:
            for _ in range(flips):
                place, bit = draw.randrange(size), 1 << draw.randrange(8)
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ bit]))
                seen[_outcome(path, table)] += 1
                file.seek(place)
                file.write(bytes([byte]))
        assert _outcome(path, table) == "same"
    assert len(seen) > 1, f"no damage was noticed: {seen}"
    return Tried(files * flips, dict(seen))


def files_cut_or_patched(seed: int, folder: Path, files: int = 8, cuts: int = 400) -> Tried:
    """Truncations, and runs of zero, random or moved bytes."""
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    seen: Counter[str] = Counter()
    for _ in range(files):
        path, table = _written(folder, rng, 3000)
        raw = path.read_bytes()
        for _ in range(cuts):
            length, at = draw.randrange(1, 600), draw.randrange(len(raw))
            piece = raw[at : at + length]
            other = draw.randrange(len(raw))
            changed = draw.choice([bytes(len(piece)), rng.bytes(len(piece)), raw[other : other + len(piece)]])
            damaged = draw.choice([raw[:at], raw[:at] + changed + raw[at + len(changed) :], raw + changed])
            path.write_bytes(damaged)
            result = _outcome(path, table)
            assert len(damaged) == len(raw) or result != "same", f"cut or grown at {at}, and read as if whole"
            seen[result] += 1
    return Tried(files * cuts, dict(seen))


def bits_flipped_in_every_kind(seed: int, folder: Path, each: int = 6000) -> Tried:
    """As in `test_corruption`, on files with every kind of page: no flip goes unnoticed where bytes are read."""
    seen: Counter[str] = Counter()
    for number, profile in enumerate(("balanced", "size")):
        (folder / profile).mkdir()
        path = folder / profile / "f"
        raw = write_rich(path, rich(), profile)
        found = flips(raw, pa.Table.from_batches(read_file(path)), path, each, seed + number)
        judge(found)
        for (_, result), n in found.items():
            seen[result] += n
    return Tried(sum(seen.values()), dict(seen))


def every_truncation(seed: int, folder: Path, files: int = 50) -> Tried:
    """Every truncation of small files of many shapes."""
    rng, n = np.random.default_rng(seed), 0
    for _ in range(files):
        path, _ = _written(folder, rng, 40)
        raw = path.read_bytes()
        truncations(path, raw)
        n += len(raw)
    return Tried(n)


def bombs_refused(seed: int, folder: Path, rounds: int = 50) -> Tried:
    """Bombs that claim other numbers each round."""
    n, slowest = 0, 0.0
    for number in range(rounds):
        (folder / str(number)).mkdir()
        found = blow(folder / str(number), seed + number)
        n, slowest = n + found["n"], max(slowest, found["slowest"])
        shutil.rmtree(folder / str(number))
    return Tried(n, {"slowest_s": round(slowest, 3)})


def fuzzed(seed: int, folder: Path, turns: int = 10, seconds: int = 5 * TRACED) -> Tried:
    """The fuzzer that sees branches; in turns, since it keeps some six kilobytes of each run."""
    found: Counter[str] = Counter()
    for turn in range(turns):
        (folder / str(turn)).mkdir()
        found.update(fuzz("fuzzing", folder / str(turn), seconds, seed + turn))
    return Tried(found["runs"], dict(found))


def kernels_fuzzed(seed: int, folder: Path, seconds: int = 50 * COMPILED) -> Tried:
    """Random changes, read by kernels that check every index."""
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(folder / "cache")}
    found = fuzz("mutating", folder, seconds, seed, checked)
    return Tried(found["runs"], found)


def few_blocks_of_many(seed: int, folder: Path, files: int = 3) -> Tried:
    """A thousand rows of three columns of ten million, from three thousand blocks at most."""
    blocks = [few_blocks(folder / f"{number}", 10_000_000, 1000, seed + number) for number in range(files)]
    return Tried(files, {"blocks": blocks})


def tables_damaged(seed: int, folder: Path, tables: int = 6, flips: int = 120) -> Tried:
    """Flipped bits in any file of a table, manifests and attachments included, read through the table."""
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    seen: Counter[str] = Counter()
    for number in range(tables):
        root, first = folder / str(number), any_table(rng, 400)
        table = storage.write(root, first, erase_key="user", seed=seed)
        parts = [first]
        for batch in range(int(rng.integers(1, 12))):
            parts.append(any_table(rng, 200))
            staged = table.stage(parts[-1].to_batches())
            table.commit([staged], key=("query", batch), attachments={"progress": rng.bytes(300)})
        expected = pa.concat_tables(parts)
        paths = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
        for _ in range(flips):
            path = draw.choice(paths)
            raw = path.read_bytes()
            damaged = bytearray(raw)
            damaged[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            seen[_read_whole(root, expected)] += 1
            path.write_bytes(raw)
        assert _read_whole(root, expected) == "same"
    assert len(seen) > 1, f"no damage was noticed: {seen}"
    return Tried(tables * flips, dict(seen))


def nobody_comes_back(seed: int, folder: Path, orders: int = 10_000) -> Tried:
    """Random orders of erase, compact, collect, append, late events and files that wait for their commit."""
    logging.disable(logging.WARNING)  # of late rows, thousands
    operations = 0
    for number in range(orders):
        operations += interleave(folder / str(number), seed * orders + number)
        shutil.rmtree(folder / str(number))
    return Tried(orders, {"operations": operations})


def _read_whole(root: Path, expected: pa.Table) -> str:
    try:
        table = storage.open(root)
        back = table.scan().to_table()
        for commit in table.history():
            for entry in commit.attachments:
                commit.attachment(entry.name)
    except StorageError as error:
        return type(error).__name__
    assert same_table(back, expected), f"{root}: other rows than were committed"
    return "same"


ROOM = Room(
    (
        Item("round trips of the encodings", properties("tests/storage/test_encodings.py", examples=3000)),
        Item("properties of files and tables", properties("tests/storage", examples=400)),
        Item("files come back", files_come_back),
        Item("bits flipped in files", bits_flipped),
        Item("bits flipped in every kind of page", bits_flipped_in_every_kind),
        Item("every truncation of small files", every_truncation),
        Item("bombs", bombs_refused),
        Item("few blocks of many", few_blocks_of_many),
        Item("fuzzing that sees branches", fuzzed),
        Item("fuzzing of kernels that check every index", kernels_fuzzed),
        Item("files cut or patched", files_cut_or_patched),
        Item("bits flipped in tables", tables_damaged),
        *TABLES,
        Item("nobody comes back", nobody_comes_back),
    )
)
