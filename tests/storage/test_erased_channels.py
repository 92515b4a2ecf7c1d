"""Where an erased value could hide in a file, one place at a time; each is seen to hold it before and not after."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from headrace.storage import erase_file, redo
from headrace.storage.layout import NONCE_BYTES
from headrace.storage.page import HEAD, STREAM
from headrace.storage.reader import File
from headrace.storage.writer import Writer

PERSON, N = 1 << 60, 4000
MINE = np.arange(0, N, 40)
OUTLIER = 0x1122334455667788 >> 3
WORD = "peregrine-falcon"


def made(path: Path, profile: str) -> None:
    """One person in a hundred rows, whose numbers are the largest and whose word nobody else uses."""
    rng = np.random.default_rng(0)
    users = rng.integers(1, 90, N)
    users[MINE] = PERSON
    number = rng.integers(0, 1000, N)
    number[MINE[3]] = OUTLIER
    words = np.array([f"word-{n % 7}" for n in range(N)], object)
    words[MINE] = WORD
    texts = np.array([f"{n:x} {'spam' * (n % 5)}" for n in rng.integers(0, 2**40, N)], object)
    texts[MINE[7]] = WORD * 40
    lists = [list(range(n % 5)) for n in range(N)]
    lists[MINE[5]] = [OUTLIER] * 30
    rows = pa.table(
        {"user": users, "number": number, "word": words.tolist(), "text": texts.tolist(), "items": lists}
    )
    with Writer(path, rows.schema, erase_key="user", profile=profile, seed=1) as writer:
        for batch in rows.to_batches():
            writer.write(batch)
        writer.close()


def end_of_streams(data: bytes, off: int) -> int:
    """Where the last payload of a page ends, from its own stream table."""
    start = off + NONCE_BYTES
    n_streams = HEAD.unpack_from(data, start)[3]
    rows = [STREAM.unpack_from(data, start + HEAD.size + STREAM.size * at) for at in range(n_streams)]
    return max((at + length for _, _, _, at, length, _ in rows), default=NONCE_BYTES + HEAD.size)


def holds(path: Path) -> dict[str, bool]:
    """By place, whether the person's values are in it."""
    found, data = {}, path.read_bytes()
    with File(path) as file:
        footer = file.footer
        stats, slack, dictionary = b"", b"", []
        for column in footer.columns(None):
            chunk = footer.chunk(column, 0)
            stats += footer.statistics(column, chunk) or b""
            rows = [*chunk.pages, *([chunk.dictionary] if chunk.dictionary is not None else [])]
            slack += b"".join(
                data[row.off + end_of_streams(data, row.off) : row.off + row.slot_len] for row in rows
            )
            if chunk.dictionary is not None and column.name == "word":
                row = chunk.dictionary
                dictionary.append(data[row.off : row.off + row.slot_len])
        it = footer.trailer
        sections = data[it.footer_off : it.footer_off + it.footer_len]
    number, text = struct.pack("<q", OUTLIER), WORD.encode()
    found["bounds"] = number in stats or text[:8] in stats
    found["dictionary"] = any(text in one for one in dictionary)
    found["slack"] = any(slack)
    found["bytes"] = text in data or number in data
    found["footer"] = text[:8] in sections or number in sections
    found["journal"] = redo.journal_of(path).exists()
    return found


@pytest.mark.parametrize("profile", ["compliance", "balanced"])
def test_no_place_holds_an_erased_value(tmp_path: Path, profile: str) -> None:
    path = tmp_path / "f.hrc"
    made(path, profile)
    before = holds(path)
    assert before["bounds"], "the control: bounds of others' columns are the person's outliers"
    assert before["dictionary"], "the control: the word is an entry"
    assert before["bytes"]
    plan = erase_file.plan(path, pa.array([PERSON]))
    assert plan is not None
    erase_file.run(plan)
    assert holds(path) == dict.fromkeys(before, False)
    with File(path) as file:
        assert file.footer.trailer.erase_epoch == 1
        left = pa.Table.from_batches(file.batches(), schema=file.schema())
    assert left.num_rows == N - len(MINE)


@pytest.mark.parametrize("encoding", ["zstd", "varint", "rle", "delta", "fsst"])
def test_spare_room_is_zeroed_when_a_page_shrinks(tmp_path: Path, encoding: str) -> None:
    path, users = tmp_path / "f.hrc", np.arange(N) // 100
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**40, N)
    values: pa.Array = pa.array(np.where(users == 39, noise, users))
    if encoding in ("zstd", "fsst"):
        values = pa.array([f"{one:x}" * 9 for one in values.to_pylist()])
    rows = pa.table({"user": users, "value": values})
    with Writer(path, rows.schema, erase_key="user", encodings={"value": encoding}, seed=1) as writer:
        for batch in rows.to_batches():
            writer.write(batch)
        writer.close()
    plan = erase_file.plan(path, pa.array([39]))
    assert plan is not None
    with File(path) as file:
        pages = file.footer.chunk(file.footer.columns(["value"])[0], 0).pages
    before = [end_of_streams(path.read_bytes(), page.off) for page in pages]
    erase_file.run(plan)
    after = [end_of_streams(path.read_bytes(), page.off) for page in pages]
    assert after[-1] < before[-1] - 64, "the control: the person's page has become shorter"
    assert not holds(path)["slack"]
