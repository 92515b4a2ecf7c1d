"""Frozen files: the writer still makes them byte for byte, the reader still reads them, FORMAT.md still describes them.

When the writer's choices change on purpose, move the old files to ``golden/files/kept`` (they must stay readable) and
write new ones with ``python -m tests.storage.test_golden_files``.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa
import pytest
from blake3 import blake3

from headrace.storage.reader import File, read_file
from headrace.storage.writer import Writer

from .bits import same_table

FOLDER = Path(__file__).parent / "golden" / "files"


def every_type() -> pa.Table:
    times = [1_700_000_000_123_456, None, -1]
    return pa.table(
        {
            "bool": pa.array([True, None, False]),
            **{
                f"int{n}": pa.array([-(2 ** (n - 1)), None, 2 ** (n - 1) - 1], f"int{n}")
                for n in (8, 16, 32, 64)
            },
            **{f"uint{n}": pa.array([0, None, 2**n - 1], f"uint{n}") for n in (8, 16, 32, 64)},
            "float32": pa.array([-0.0, None, 0.1], pa.float32()),
            "float64": pa.array([float("nan"), None, 0.1]),
            "string": pa.array(["", None, "déjà vu"]),
            "binary": pa.array([b"\0\xff", None, b""]),
            "date32": pa.array([20_000, None, -1], pa.int32()).cast(pa.date32()),
            **{
                f"time_{unit}": pa.array(times, pa.timestamp(unit, tz="UTC"))
                for unit in ("s", "ms", "us", "ns")
            },
            "time_naive": pa.array(times, pa.timestamp("us")),
            "list_int64": pa.array([[1, None, 3], None, []], pa.list_(pa.int64())),
            "list_string": pa.array([["a", None], None, [""]], pa.list_(pa.string())),
            "nulls": pa.nulls(3, pa.int32()),
        }
    )


def two_groups() -> pa.Table:
    n = 2100
    return pa.table(
        {
            "user": pa.array([2**40 + 977 * (i // 7) for i in range(n)]),
            "kind": pa.array([("impression", "click", "impression")[i % 3] for i in range(n)]),
            "same": pa.array([7] * n, pa.uint8()),
        }
    )


def histories() -> pa.Table:
    """All that 1.1 brought: clustered and following lists, parts of nested columns, a dictionary of the file, bf16, text."""
    n = 4200
    users = [(i * 7) % 30 for i in range(n)]
    seen: dict[int, list[int]] = {}
    lists = []
    for i, user in enumerate(users):
        seen[user] = [(i * i) % 5003, *seen.get(user, [])][:12]
        lists.append(seen[user])
    ids = [2**50 + 999_983 * ((i * i) % 1511) for i in range(n)]
    return pa.table(
        {
            "user": pa.array(users),
            "clicks": pa.array(lists, pa.list_(pa.int64())),
            "scores": pa.array([[item / 4 for item in one] for one in lists], pa.list_(pa.float32())),
            "id": pa.array(ids),
            "place": pa.array([{"row": i % 5, "tags": [["a"], []][i % 2]} for i in range(n)]),
            "vector": pa.array([[i / 3, -i / 7] for i in range(n)], pa.list_(pa.float32(), 2)),
            "text": pa.array([f"shop/{i % 100}/item-{(i * i) % 5003}" for i in range(n)]),
            "word": pa.array([["red", "green"][i % 2] for i in range(n)]).dictionary_encode(),
            "amount": pa.array([i * 10**18 for i in range(n)], pa.decimal128(30, 2)),
        }
    )


FILES = {
    "every_type": (every_type(), {"seed": 1, "personal": ["string"]}),
    "two_groups": (two_groups(), {"seed": 2, "group_rows": 2048, "page_blocks": 1, "erase_key": "user"}),
    "histories": (
        histories(),
        {
            "seed": 4,
            "group_rows": 2048,
            "erase_key": "user",
            "quantise": {"vector": "bf16"},
            "encodings": {"id": "dictionary"},
        },
    ),
    "empty": (every_type().select(["int64", "list_string"])[:0], {"seed": 3}),
}


def write(path: Path, name: str) -> None:
    data, options = FILES[name]
    with Writer(path, data.schema, **options) as writer:  # type: ignore[arg-type]
        writer.write(data)
        writer.close()


@pytest.mark.parametrize("name", FILES)
def test_the_writer_still_makes_the_same_bytes(name: str, tmp_path: Path) -> None:
    write(tmp_path / "f", name)
    assert (tmp_path / "f").read_bytes() == (FOLDER / f"{name}.hrc").read_bytes()


@pytest.mark.parametrize("path", [*FILES, "kept/every_type", "kept/two_groups", "kept/empty"])
def test_the_reader_still_reads_them(path: str) -> None:
    """Those under ``kept`` are of format 1.0."""
    data, options = FILES[path.rpartition("/")[2]]
    for name in options.get("quantise", ()):  # type: ignore[attr-defined]
        stored = pa.array(
            data[name].combine_chunks().flatten().to_numpy().view("u4")
        )  # what bf16 keeps, rounded to even
        bits = stored.to_numpy()
        kept = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype("u4").view("f4")
        exact = pa.FixedSizeListArray.from_arrays(pa.array(kept), 2)
        data = data.set_column(data.schema.get_field_index(name), data.schema.field(name), exact)
    with File(FOLDER / f"{path}.hrc") as file:
        schema = file.schema()
        assert file.footer.header.minor == (0 if path.startswith("kept") else 1)
    assert same_table(pa.Table.from_batches(read_file(FOLDER / f"{path}.hrc"), schema=schema), data)


def h(data: bytes, n: int = 16) -> bytes:
    return blake3(data).digest(length=n)


@pytest.mark.parametrize("name", ["every_type", "two_groups", "empty"])
def test_format_md_read_by_hand(name: str) -> None:
    """A second reader, from the document alone: sections 2, 3, 3.1, 5, 5.1, 5.3, 5.4, 5.5, 5.6, 4 and 5.7, in order."""
    data, options = FILES[name]
    raw = (FOLDER / f"{name}.hrc").read_bytes()

    def u(at: int, n: int) -> int:
        return int.from_bytes(raw[at : at + n], "little")

    assert (raw[:4], u(4, 2), u(6, 2), u(8, 8), u(16, 8), u(48, 8)) == (b"HRC1", 1, 1, 1 << 8, 0, 0)
    assert raw[56:64] == h(raw[:56], 8)

    slots = [raw[-8192:-4096], raw[-4096:]]
    assert slots[0] == slots[1]
    assert slots[0][128:192] == raw[:64]
    assert not slots[0][192:].strip(b"\0")
    trailer = slots[0][:128]
    assert trailer[112:] == h(trailer[:112])
    magic, major, minor, length, off, size, n_sections, zero, tree, epoch, n_rows = struct.unpack(
        "<4s2H3Q2I3Q", trailer[:64]
    )
    assert (magic, major, minor, length, zero, epoch) == (b"HRCT", 1, 1, len(raw), 0, 0)
    assert (off % 64, trailer[64:80], n_rows) == (0, raw[24:40], data.num_rows)
    footer = raw[off : off + size]

    level = b"".join(h(footer[at : at + 2048]) for at in range(0, size, 2048))
    assert raw[tree : tree + len(level)] == level
    numbers = struct.pack("<7Q", length, off, size, n_sections, tree, epoch, n_rows)
    assert trailer[80:112] == h(b"HRC1 root" + raw[:64] + raw[24:40] + numbers + level, 32)

    sections = {
        u(off + 32 * i, 4): (u(off + 32 * i + 8, 8), u(off + 32 * i + 16, 8)) for i in range(n_sections)
    }
    statistics = {"empty": []}.get(name, [7])
    assert sorted(sections) == [1, 2, 3, 4, 5, *statistics, 8, 11, 14, 16]
    assert raw[sections[11][0] :][: sections[11][1]] == struct.pack("<II", 7, 8) + b"profilebalanced"
    meta = struct.unpack("<Q8I24s", raw[sections[16][0] :][:64])
    rows, n_columns, n_top, n_groups, group_rows, _, _, n_pages, n_dicts, spare = meta
    assert (rows, n_columns, n_top) == (n_rows, data.num_columns, data.num_columns)
    assert n_groups == -(-n_rows // group_rows)
    assert not spare.strip(b"\0")

    names, columns, chunks, pages, dicts = (sections[number][0] for number in (3, 2, 4, 5, 14))
    flagged = {options.get("erase_key"): 4, **dict.fromkeys(options.get("personal", []), 2)}  # type: ignore[attr-defined]
    seen_pages = seen_dicts = 0
    for column, field in enumerate(data.schema):
        at = columns + 64 * column
        text = names + u(at + 8, 4)
        assert raw[text : text + u(at + 12, 2)].decode() == field.name
        assert u(at, 8) == int.from_bytes(h(raw[40:48] + field.name.encode(), 8), "little")
        assert u(at + 26, 2) & 6 == flagged.get(field.name, 0)
        assert u(at + 26, 2) & 8 == 8 * pa.types.is_list(field.type)
        assert u(at + 32, 8) == data[field.name].null_count
        for group in range(n_groups):
            start, extent, first, many, tree_id, dictionary, _ = struct.unpack_from(
                "<QQIHHII", raw, chunks + 32 * (column * n_groups + group)
            )
            assert (first, tree_id) == (seen_pages, 0)
            seen_pages += many
            in_group = 0
            for number in range(first, first + many):
                page = struct.unpack_from("<QIIIIHHI16s", raw, pages + 48 * number)
                p_off, slot, used, first_row, page_rows, blocks, _, nulls, digest = page
                assert start <= p_off
                assert p_off + slot <= start + extent
                assert (p_off % 64, slot % 64, first_row, blocks) == (0, 0, in_group, -(-page_rows // 1024))
                assert digest == h(raw[p_off : p_off + used])
                assert not raw[p_off + used : p_off + slot].strip(b"\0")
                assert u(p_off + 16, 4) == page_rows
                validity, n_streams = u(p_off + 20, 1), u(p_off + 22, 2)
                assert validity == (0 if not nulls else 2 if nulls == page_rows else 1)
                roles = [u(p_off + 32 + 16 * i, 1) for i in range(n_streams)]
                assert len(set(roles)) == n_streams
                assert (1 in roles) == (validity == 1)
                assert (5 in roles) == bool(dictionary and n_streams)
                in_group += page_rows
            assert in_group == min(group_rows, n_rows - group * group_rows)
            if dictionary:
                seen_dicts += 1
                d_off, slot, used, entries, of, *_, digest = struct.unpack_from(
                    "<QIIIIII16s", raw, dicts + 48 * (dictionary - 1)
                )
                assert (digest, u(d_off + 16, 4), of) == (h(raw[d_off : d_off + used]), entries, column)
    assert (seen_pages, seen_dicts) == (n_pages, n_dicts)

    start, extent = sections[8]
    counts, bits = -(-4 * n_groups // 64), -(-n_rows // 512)
    assert extent == 64 * (counts + bits)
    assert not raw[start : start + extent].strip(b"\0")


def test_plain_values_are_where_the_document_says() -> None:
    """FORMAT.md section 4: float32 column of ``every_type``: VALIDITY, then two plain values, -0.0 and 0.1."""
    raw = (FOLDER / "every_type.hrc").read_bytes()
    with File(FOLDER / "every_type.hrc") as file:
        (column,) = file.footer.columns(["float32"])
        off = file.footer.chunk(column, 0).pages[0].off
    streams = [struct.unpack_from("<BBHIII", raw, off + 32 + 16 * i) for i in range(2)]
    assert [(role, n) for role, _, _, _, _, n in streams] == [(1, 3), (3, 2)]
    _, _, encoding, at, length, _ = streams[1]
    assert (encoding, length) == (1, 8)
    assert struct.unpack_from("<2f", raw, off + at) == (-0.0, pytest.approx(0.1))


if __name__ == "__main__":
    for each in FILES:
        (FOLDER / f"{each}.hrc").unlink(missing_ok=True)
        write(FOLDER / f"{each}.hrc", each)
