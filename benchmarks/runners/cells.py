"""What a file format is asked to do in the tables ``store``, ``seq``, ``wide`` and ``take``, one operation per case.

A format's module (``format_parquet``, …) says how the library does each operation; everything else is here and the same for
all: the files are written once per run, the first answer is compared with the source value by value, and only then is
anything timed. Runs in the rivals' environments: the standard library, numpy and pyarrow.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.runners.answers import must_equal, sum_of_ids
from benchmarks.runners.protocol import Args, Result, Runner, quickest

BATCH_ROWS = 65_536
"""Row groups, record batches and the like are this long wherever a format lets its user say."""


class Format(Protocol):
    """How one library writes a table and reads it back; every call opens the file anew."""

    key: str
    """Part of a file's name: what was written with other settings is another file."""

    def write(self, table: pa.Table, path: Path) -> None:
        """Write one file, or a folder of them."""

    def read(self, path: Path, columns: Sequence[str] | None) -> pa.Table:
        """These columns, or all, in the order of the file's rows."""

    def take(self, path: Path, rows: Any, columns: Sequence[str] | None) -> pa.Table:
        """These rows (int64, ascending), in this order."""

    def filter(self, path: Path, columns: Sequence[str], column: str, value: int) -> pa.Table:
        """These columns of the rows where ``column`` equals ``value``."""


class Files:
    """The files of one case: each format writes each data set once per run, into a folder that all cases share."""

    def __init__(self, args: Args) -> None:
        self._folder = Path(args["files"])
        self._data = args["data"]

    def source(self, dataset: str, columns: Sequence[str] | None) -> pa.Table:
        """What is written: the data set's columns, mapped into memory."""
        table = pa.ipc.open_file(pa.memory_map(self._data[dataset]["path"])).read_all()
        return table if columns is None else table.select(columns)

    def written(self, form: Format, dataset: str, columns: Sequence[str] | None, part: str) -> Path:
        """The file of a data set's part, which ``part`` names; it is written unless it is there already."""
        path = self._folder / f"{dataset}-{part}-{form.key}"
        if not path.exists():
            write_whole(form, self.source(dataset, columns), path)
        return path


def write_whole(form: Format, table: pa.Table, path: Path) -> None:
    """Write ``path`` whole or not at all: another case may look for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    remove(fresh)
    form.write(table, fresh)
    fresh.rename(path)


def remove(path: Path) -> None:
    """Remove a file or a folder; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


class Size(Runner):
    """Writes the files, compares what comes back with the source, and counts their bytes: nothing is timed.

    ``make`` takes a profile of ours; a rival has none, and one file stands for all.
    """

    def __init__(self, args: Args, make: Callable[[str], Format]) -> None:
        self._args, self._files = args, Files(args)
        self._formats = {profile: make(profile) for profile in args["profiles"]}

    def run(self) -> Result:
        args, values = self._args, {}
        self._paths = {
            form.key: self._files.written(form, args["dataset"], args["columns"], args["part"])
            for form in self._formats.values()
        }
        for profile, form in self._formats.items():
            values[f"bytes_{profile}"] = float(bytes_of(self._paths[form.key]))
        return Result(values)

    def finish(self) -> None:
        """Every file holds the source's rows.

        Raises:
            ValueError: one does not, and where.
        """
        source = self._files.source(self._args["dataset"], self._args["columns"])
        for form in {form.key: form for form in self._formats.values()}.values():
            must_equal(form.read(self._paths[form.key], None), source)


class Timed(Runner):
    """One operation on one file: many calls in a turn, the turn's value is the quickest."""

    def __init__(self, args: Args, make: Callable[[str], Format]) -> None:
        self._args, self._files = args, Files(args)
        self._format = make(args["profile"])
        self._checked = False

    def prepare(self) -> None:
        """Once: write the file, and compare the operation's first answer with the source.

        Raises:
            ValueError: it differs, and where.
        """
        if self._checked:
            return
        args = self._args
        self._path = self._files.written(self._format, args["dataset"], args["columns"], args["part"])
        self._source = self._files.source(args["dataset"], args["columns"])
        self._call, check = getattr(self, f"_{args['op']}")()
        check()
        self._checked = True

    def run(self) -> Result:
        return Result({"s": quickest(self._call, self._args["calls"]), "bytes": float(bytes_of(self._path))})

    def _read(self) -> tuple[Callable[[], Any], Callable[[], None]]:
        columns = self._args.get("read_columns")
        wanted = self._source if columns is None else self._source.select(columns)

        def call() -> pa.Table:
            return self._format.read(self._path, columns)

        return call, lambda: must_equal(call(), wanted)

    def _read_sum(self) -> tuple[Callable[[], Any], Callable[[], None]]:
        read, check = self._read()

        def call() -> int:
            return sum_of_ids(read())

        def both() -> None:
            check()
            if call() != sum_of_ids(self._source):
                raise ValueError("the sum of all ids differs from the source's")

        return call, both

    def _take(self) -> tuple[Callable[[], Any], Callable[[], None]]:
        columns = self._args.get("read_columns")
        rng = np.random.default_rng(self._args["seed"])
        n = min(self._args["rows"], self._source.num_rows)
        rows = np.sort(rng.choice(self._source.num_rows, n, replace=False))
        wanted = self._source.select(columns or self._source.column_names).take(pa.array(rows))

        def call() -> pa.Table:
            return self._format.take(self._path, rows, columns)

        return call, lambda: must_equal(call(), wanted)

    def _filter(self) -> tuple[Callable[[], Any], Callable[[], None]]:
        column, value, columns = (self._args[name] for name in ("column", "value", "read_columns"))
        wanted = self._source.filter(pc.equal(self._source[column], value)).select(columns)

        def call() -> pa.Table:
            return self._format.filter(self._path, columns, column, value)

        return call, lambda: must_equal(call(), wanted)


class Write(Runner):
    """Writes the whole table each turn, into a new file; the last one is read back and compared."""

    def __init__(self, args: Args, make: Callable[[str], Format]) -> None:
        self._args, self._format = args, make(args["profile"])
        self._source = Files(args).source(args["dataset"], args["columns"])
        self._path = Path(args["scratch"]) / f"written-{self._format.key}"
        self._checked = False

    def prepare(self) -> None:
        remove(self._path)

    def run(self) -> Result:
        began = time.perf_counter()
        self._format.write(self._source, self._path)
        took_s = time.perf_counter() - began
        return Result({"s": took_s, "bytes": float(bytes_of(self._path))})

    def finish(self) -> None:
        """The first file holds the source's rows.

        Raises:
            ValueError: it does not, and where.
        """
        if not self._checked:
            must_equal(self._format.read(self._path, None), self._source)
        self._checked = True


class Open(Runner):
    """Opens files of several widths and reads a few columns of each: new objects with every call, files in the page cache."""

    def __init__(self, args: Args, make: Callable[[str], Format]) -> None:
        self._args, self._files = args, Files(args)
        self._format = make(args["profile"])
        self._checked = False

    def prepare(self) -> None:
        """Once: write the files, and compare the first answers with the source.

        Raises:
            ValueError: they differ, and where.
        """
        if self._checked:
            return
        self._calls: dict[str, Callable[[], pa.Table]] = {}
        for dataset in self._args["datasets"]:
            source = self._files.source(dataset, None)
            path = self._files.written(self._format, dataset, None, "all")
            rng = np.random.default_rng(self._args["seed"])
            at = np.sort(rng.choice(np.arange(1, source.num_columns), self._args["read"], replace=False))
            columns = [source.column_names[number] for number in at]

            def call(path: Path = path, columns: list[str] = columns) -> pa.Table:
                return self._format.read(path, columns)

            must_equal(call(), source.select(columns))
            self._calls[dataset] = call
        self._checked = True

    def run(self) -> Result:
        return Result(
            {f"s_{name}": quickest(call, self._args["calls"]) for name, call in self._calls.items()}
        )


RUNNERS: dict[str, Callable[[Args, Callable[[str], Format]], Runner]] = {
    "size": Size,
    "write": Write,
    "open": Open,
}


def start(args: Args, make: Callable[[str], Format]) -> Runner:
    """The runner of ``args["op"]``; the operations that are not in ``RUNNERS`` are ``Timed``'s."""
    return RUNNERS.get(args["op"], Timed)(args, make)
