"""What tables are asked to do, by every contestant alike: commit, be opened, be compacted, give their best rows.

A contestant hands over a ``Tables``; the work, its checks and what is timed are here. Needs numpy and pyarrow alone, so that
every rival's environment can run it.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from benchmarks.runners.protocol import Args, Result, Runner


class Tables(Protocol):
    """One table format."""

    def create(self, path: Path, rows: pa.Table) -> None:
        """A new table of these rows."""

    def append(self, path: Path, rows: pa.Table) -> int:
        """Add rows in one commit, as often as it takes; returns how often another writer was faster."""
        ...

    def append_files(self, path: Path, rows: pa.Table, files: int) -> None:
        """Add rows in one commit of that many files; the first makes the table."""

    def first_batch(self, path: Path) -> int:
        """Open the table and read until the first rows are there; returns how many came."""
        ...

    def compact(self, path: Path, key: str | None) -> None:
        """Make few files of many; with ``key``, in its order where the format can."""

    def rows(self, path: Path) -> int:
        """Rows of the newest version."""
        ...

    def live_bytes(self, path: Path) -> int:
        """Bytes of the files of the newest version."""
        ...

    def check(self, path: Path) -> int:
        """Read every page and hold it against its checksum; returns the bytes of the table's files."""
        ...

    def best(self, path: Path, column: str, threshold: float, share: float) -> pa.Table:
        """The rows at or above a quality, which are that share of all."""
        ...


def events(rows: int, seed: int = 7) -> pa.Table:
    """A stream's rows in order of arrival: users come back, each with a few items, prices and a quality of their own."""
    rng = np.random.default_rng(seed)
    user = rng.zipf(1.3, rows) % 20_000
    return pa.table(
        {
            "user": pa.array(user.astype(np.int64)),
            "time": pa.array(np.cumsum(rng.integers(1, 2_000, rows)) + 1_790_000_000_000, pa.timestamp("ms")),
            "item": pa.array((user * 7 + rng.integers(0, 40, rows)).astype(np.int64)),
            "kind": pa.DictionaryArray.from_arrays(
                pa.array(rng.integers(0, 3, rows).astype(np.int8)), pa.array(["view", "click", "buy"])
            ).cast(pa.string()),
            "country": pa.array([f"c{number}" for number in (user % 60).tolist()]),
            "price": pa.array(np.round(rng.gamma(2.0, 20.0, rows), 2)),
            "quality": pa.array(rng.random(rows)),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(rng.standard_normal(rows * 16).astype(np.float32)), 16
            ).cast(pa.list_(pa.float32())),
        }
    )


class Cell(Runner):
    """One case of one contestant."""

    def __init__(self, tables: Tables, args: Args) -> None:
        self.tables, self.args = tables, args
        self.folder = Path(args["scratch"]) / f"{args['op']}-{args['contestant']}"
        self.op: Callable[[], Result] = getattr(self, f"_{args['op']}")
        self.path = self.folder / "t"
        self.kept = self.folder / "kept"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        getattr(self, f"_begin_{args['op']}", lambda: None)()

    def prepare(self) -> None:
        getattr(self, f"_prepare_{self.args['op']}", lambda: None)()

    def run(self) -> Result:
        return self.op()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare_commits(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.tables.create(self.path, events(10))

    def _commits(self) -> Result:
        writers, commits = int(self.args["writers"]), int(self.args["commits"])
        beaten, seconds, failed = [0] * writers, list[float](), list[Exception]()
        rows = events(100)

        def write(at: int) -> None:
            try:
                for _ in range(commits):
                    began = time.perf_counter()
                    beaten[at] += self.tables.append(self.path, rows)
                    seconds.append(time.perf_counter() - began)
            except Exception as error:  # noqa: BLE001 (raised below)
                failed.append(error)

        threads = [threading.Thread(target=write, args=(at,)) for at in range(writers)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - began
        if failed:
            raise failed[0]
        expected = 10 + 100 * writers * commits
        if (got := self.tables.rows(self.path)) != expected:
            raise ValueError(f"expected {expected} rows after all commits, got {got}")
        values = {
            "rate": writers * commits / took,
            "median_s": float(np.median(seconds)),
            "p99_s": float(np.percentile(seconds, 99)),
            "beaten": float(sum(beaten)),
        }
        return Result(values)

    def _begin_plan(self) -> None:
        versions, files = int(self.args["versions"]), int(self.args["files"])
        rows = events(files // versions * 4).select(["user"])
        for _ in range(versions):
            self.tables.append_files(self.path, rows, files // versions)

    def _plan(self) -> Result:
        least = float("inf")
        for _ in range(int(self.args["calls"])):
            began = time.perf_counter()
            got = self.tables.first_batch(self.path)
            least = min(least, time.perf_counter() - began)
            if not got:
                raise ValueError("expected rows in the first batch, got none")
        return Result({"s": least})

    def _begin_compaction(self) -> None:
        whole = events(int(self.args["rows"]))
        each = -(-len(whole) // int(self.args["files"]))
        self.size = whole.nbytes
        self.tables.create(self.kept, whole.slice(0, each))
        for start in range(each, len(whole), each):
            self.tables.append(self.kept, whole.slice(start, each))
        if self.args.get("key"):
            self.tables.create(self.folder / "sorted", whole.sort_by([(self.args["key"], "ascending")]))

    def _prepare_compaction(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.kept, self.path)

    def _compaction(self) -> Result:
        began = time.perf_counter()
        self.tables.compact(self.path, self.args.get("key"))
        took = time.perf_counter() - began
        if (got := self.tables.rows(self.path)) != int(self.args["rows"]):
            raise ValueError(f"expected {self.args['rows']} rows after compaction, got {got}")
        values = {"rate": self.size / 1e6 / took, "bytes": float(self.tables.live_bytes(self.path))}
        if self.args.get("key"):
            values["ratio"] = values["bytes"] / self.tables.live_bytes(self.folder / "sorted")
        return Result(values)

    def _begin_check(self) -> None:
        whole = events(int(self.args["rows"]))
        self.tables.create(self.path, whole)
        for _ in range(int(self.args["files"]) - 1):
            self.tables.append(self.path, whole)

    def _check(self) -> Result:
        """Per second of one core, however many threads a contestant has."""
        least, n_bytes = float("inf"), 0
        for _ in range(int(self.args["calls"])):
            began = time.process_time()
            n_bytes = self.tables.check(self.path)
            least = min(least, time.process_time() - began)
        return Result({"rate": n_bytes / 2**30 / least})

    def _begin_quality(self) -> None:
        whole = events(int(self.args["rows"]))
        quality = np.sort(whole["quality"].to_numpy())[::-1]
        self.wanted = int(np.ceil(0.3 * len(whole)))
        self.threshold = float(quality[self.wanted - 1])
        each = -(-len(whole) // 8)
        self.tables.create(self.path, whole.slice(0, each))
        for start in range(each, len(whole), each):
            self.tables.append(self.path, whole.slice(start, each))
        self.tables.compact(self.path, "quality-first")

    def _quality(self) -> Result:
        least = float("inf")
        for _ in range(int(self.args["calls"])):
            began = time.perf_counter()
            found = self.tables.best(self.path, "quality", self.threshold, 0.3)
            least = min(least, time.perf_counter() - began)
            if len(found) != self.wanted or found["quality"].to_numpy().min() < self.threshold:
                raise ValueError(f"expected the {self.wanted} best rows, got {len(found)}")
            del found
        return Result({"s": least})


def retried(commit: Callable[[], Any], conflicts: tuple[type[Exception], ...]) -> int:
    """Commit until it goes through; returns how often another writer was faster."""
    for beaten in range(10_000):
        try:
            commit()
        except conflicts:
            time.sleep(random.uniform(0, 0.002 * min(beaten + 1, 50)))
        else:
            return beaten
    raise TimeoutError("never got through")
