"""Data sets that a table's contestants share, each made once per run and kept as an uncompressed Arrow file of one batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.case import Case, Json
from benchmarks.data.ads import FAMILIES, Ads, ads
from benchmarks.data.clicks import Noise
from benchmarks.data.movielens import histories, ratings

NOISE = Noise()
SEQUENCES = ("user_id", *FAMILIES["seq"])
WITHOUT_EMBEDDING = tuple(
    name for family in FAMILIES.values() for name in family if family != FAMILIES["emb"]
)
WIDE_SEED = 7


def make(name: str, rows: int) -> pa.Table:
    """The data set ``name``: ``ads``, ``noisy``, ``movielens-user``, ``movielens-arrival`` or ``wide-N``.

    Args:
        rows: of MovieLens, the first so many ratings; there are 100,000.
    """
    kind, _, detail = name.partition("-")
    if kind == "ads":
        return ads(Ads(rows=rows))
    if kind == "noisy":
        return ads(Ads(rows=rows, noise=NOISE)).select(SEQUENCES)
    if kind == "movielens":
        return histories(ratings(os.environ), "user" if detail == "user" else "arrival", rows)
    if kind == "wide":
        return wide(int(detail), rows)
    raise ValueError(
        f"no data set {name!r}; there are ads, noisy, movielens-user, movielens-arrival and wide-N"
    )


def wide(columns: int, rows: int) -> pa.Table:
    """``user_id`` and float32 features with nothing to compress: what is measured is how a format finds its columns."""
    rng = np.random.default_rng(WIDE_SEED)
    features = rng.random((columns - 1, rows), dtype=np.float32)
    return pa.table(
        {
            "user_id": np.arange(rows, dtype=np.int64),
            **{f"feature_{number:06d}_ctr_7d": feature for number, feature in enumerate(features)},
        }
    )


@contextmanager
def ground(pending: Sequence[Case], scratch: Path) -> Iterator[Mapping[str, Json]]:
    """The data sets that ``pending`` names, and the folder where contestants keep what they wrote."""
    wanted = {
        name: case.args["rows_of_data"]
        for case in pending
        for name in case.args.get("datasets", [case.args.get("dataset")])
    }
    folder = scratch / "data"
    folder.mkdir(parents=True)
    made = {}
    for name, rows in wanted.items():
        path = folder / f"{name}.arrow"
        table = make(name, rows).combine_chunks()
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        made[name] = {"path": str(path)}
        del table
    yield {"data": made, "files": str(scratch / "files")}
