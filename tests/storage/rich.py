"""One small table that gets every kind of page: what tests of damage and of hostile bytes start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.storage.select import PROFILES
from headrace.storage.writer import Writer

GROUP_ROWS = 1024
QUANTISED = {"score": "bf16", "level": "int8"}


def rich(n: int = 1300, users: int = 30) -> pa.Table:
    """Histories of scattered users and a list that follows them, repeated and unrepeated text, structs of lists, floats."""
    rng = np.random.default_rng(1)
    user = rng.integers(0, users, n)
    seen: dict[int, list[int]] = {}
    clicked: list[list[int] | None] = []
    clicked_at: list[list[int] | None] = []
    items = rng.integers(0, 2**40, n).tolist()
    for row, one in enumerate(user.tolist()):
        history = seen.setdefault(one, [])
        history.insert(0, row)
        del history[12:]
        clicked.append([items[at] for at in history] if row % 97 else None)
        clicked_at.append([1_700_000_000 + at for at in history] if row % 97 else None)
    urls = [f"https://example.org/{a}/{b}" for a, b in rng.integers(0, 10**6, (n, 2)).tolist()]
    titles = [rng.bytes(70).hex() for _ in range(300)]  # too many bytes to have them in each row group
    levels = (rng.integers(0, 64, n) / 8).astype(np.float32)
    places = [{"x": k, "tags": [[k % 7], []]} if k % 11 else None for k in rng.integers(0, 10**6, n).tolist()]
    return pa.table(
        {
            "user": pa.array(user.astype(np.int64) + 2**40),
            "clicked": pa.array(clicked, pa.list_(pa.int64())),
            "clicked_at": pa.array(clicked_at, pa.list_(pa.int64())),
            "url": pa.array(urls),
            "title": pa.array([titles[k % 300] for k in range(n)]),
            "place": pa.array(places),
            "score": pa.array(levels),  # eighths below 8: bf16 holds them
            "level": pa.array(rng.standard_normal(n).astype(np.float32)),
            "kind": pa.array([("view", None, "click")[k] for k in rng.integers(0, 3, n)]),
        }
    )


def write_rich(path: Path, table: pa.Table, profile: str = "balanced") -> bytes:
    """The table as a file of that profile, in row groups of 1,024 rows; its bytes.

    Bytes are worth so much that streams this short are encoded in each other as long ones are.
    """
    dear = replace(PROFILES[profile], ns_per_byte=10_000.0)
    options = {"seed": 11, "group_rows": GROUP_ROWS, "erase_key": "user", "profile": dear}
    with Writer(path, table.schema, quantise=QUANTISED, **options) as writer:  # type: ignore[arg-type]
        writer.write(table)
        writer.close()
    return path.read_bytes()
