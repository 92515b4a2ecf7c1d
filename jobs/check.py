"""The second opinion: great-expectations on every rejected row and a seeded sample of a batch, on one executor.

In the flow: after staging, beside learning. The tasks of a batch left their candidates as Arrow files; this picks the sample,
asks great-expectations, compares its verdict with the masks' row by row, and removes the files. What it returns holds counts
and rule names, never a value.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
import pyarrow as pa
from pyspark import SparkContext

from headrace.jobs.sample import RANK, LowestRanks
from headrace.streaming.contracts import Contract

DECODE_ERROR, REASONS = "_decode_error", "_reasons"


STAGING = "_staging"
"""Folder below a table where candidates wait for the check; what a crash leaves there is removed at the next start."""


def clear(table: Path) -> None:
    """Remove the candidates that a killed run has left: they hold events, and no one will look at them again."""
    shutil.rmtree(table / STAGING, ignore_errors=True)


def write_candidates(staging: Path, name: str, candidates: pa.Table) -> str:
    """Leave a task's candidates under ``staging``; the path."""
    staging.mkdir(parents=True, exist_ok=True)
    path = staging / f"check-{name}.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, candidates.schema) as writer:
        writer.write_table(candidates)
    return str(path)


def check(context: SparkContext, contract: Contract, paths: Sequence[str], rows: int) -> bytes:
    """Run the check as a job of one task; its result as JSON."""
    [result] = context.parallelize([0], 1).map(lambda _: _check(contract, tuple(paths), rows)).collect()
    return bytes(result)


def _check(contract: Contract, paths: Sequence[str], rows: int) -> bytes:
    sample = LowestRanks(rows)
    for path in paths:
        with pa.OSFile(path) as source:
            for batch in pa.ipc.open_file(source).read_all().to_batches():
                sample.add(batch)
    table = sample.table()
    assert table is not None, "a batch of at least one message has candidates"
    [batch] = table.drop_columns([RANK]).combine_chunks().to_batches()
    result = _checker(contract).check(
        batch.drop_columns([DECODE_ERROR, REASONS]), batch.column(DECODE_ERROR), batch.column(REASONS)
    )
    for path in paths:
        Path(path).unlink(missing_ok=True)
    return bytes(result.to_json())


@lru_cache(maxsize=4)
def _checker(contract: Contract):  # type: ignore[no-untyped-def]
    """One great-expectations context per contract and worker process; making it costs seconds."""
    from headrace.streaming.contracts.expectations import Checker

    return Checker(contract)


def disagreements(result: bytes) -> list[str]:
    """Rules on which great-expectations and the masks differ, from the JSON that ``check`` returned."""
    return list(msgspec.json.decode(result).get("disagreements", ()))
