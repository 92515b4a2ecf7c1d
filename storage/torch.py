"""Tables and files as torch datasets: shuffled, sharded, jagged batches that can be stopped and resumed anywhere.

The end of the flow: a trainer iterates a ``JaggedDataset``, or the ``Loader`` that it makes, which reads in worker
processes. Each batch is a dict of CPU tensors. Lists come as Arrow's ListView does, ``{values, offsets, sizes}``, so
that rows which share items in the file share them in memory, and shuffling moves no item. What is read when is planned
in ``epoch``. torch is imported here alone; strings and nested lists are refused by name, nothing is padded or cast.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import torch
import torch.utils.dlpack
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from headrace.storage import ragged
from headrace.storage.as_stored import code_of
from headrace.storage.epoch import Epoch, handed_out, share
from headrace.storage.errors import NoSuchColumn, SchemaMismatch, UnsupportedType
from headrace.storage.ragged import Column, Plain
from headrace.storage.rows import RowReader, Rows, rows_of

Jagged: TypeAlias = "dict[str, torch.Tensor]"
Batch: TypeAlias = "dict[str, torch.Tensor | Jagged]"
Lists = Literal["view", "compact"]
_STORED = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


class JaggedDataset(IterableDataset[Batch]):
    """A table's or file's rows as batches of tensors, in an order drawn from (seed, epoch).

    A batch maps column names to tensors: numbers to [rows], fixed-size lists to [rows, k], lists to ``{"values",
    "offsets", "sizes"}``, offsets and sizes int64[rows], where row i is ``values[offsets[i]:][:sizes[i]]``. Dates and
    timestamps are the integers they are stored as. Batches are the same whatever the number of ranks and workers;
    each is handed out once per epoch.

    >>> import pyarrow, tempfile
    >>> from headrace.storage import write
    >>> table = write(tempfile.mkdtemp() + "/t", pyarrow.table({"ids": [[7, 8], [], [9]], "label": [1.0, 0.0, 1.0]}))
    >>> [batch] = JaggedDataset(table, shuffle=False)
    >>> batch["ids"]["values"].tolist(), batch["ids"]["offsets"].tolist(), batch["ids"]["sizes"].tolist()
    ([7, 8, 9], [0, 2, 2], [2, 0, 1])
    >>> batch["label"].tolist()
    [1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        data: Any,
        columns: Sequence[str] | None = None,
        *,
        batch_rows: int = 1024,
        shuffle: bool = True,
        seed: int = 0,
        page_rows: int = 8192,
        window_pages: int = 8,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        lists: Lists = "view",
        fill: Mapping[str, float] | None = None,
        as_stored: bool = False,
    ) -> None:
        """Plan what to read; rows are read when iterated.

        Args:
            data: a ``Table``, or the path or URL of a table or of a single file.
            columns: names; None is all.
            batch_rows: rows of a batch.
            shuffle: False keeps the order of the table.
            seed: of the shuffling; give every rank the same one.
            page_rows: rows that are read together and stay together until they are shuffled within their window.
            window_pages: pages whose rows are shuffled together; two windows are in memory at a time.
            rank, world_size: this process's share; None asks torch.distributed, if that is set up.
            drop_last: leave out what is not a full batch, and batches that would not give every rank as many.
            lists: ``view`` shares one ``values`` among the batches of a window; ``compact`` gives each its own items,
                which is less to move to a device.
            fill: by column, the number that nulls become; a null list has size 0 anyway.
            as_stored: columns stored as fp16, bf16 or fp8 come as torch.float16, bfloat16, float8_e4m3fn or float8_e5m2,
                not converted; those stored as int8, or in several formats, as the floats they were written as.

        Raises:
            UnsupportedType: naming the column that cannot be tensors.
            NoSuchColumn: naming the one missing.
        """
        if batch_rows < 1 or page_rows < 1 or window_pages < 1:
            raise ValueError(
                f"expected batch_rows, page_rows and window_pages of at least 1, got {batch_rows}, {page_rows}, "
                f"{window_pages}"
            )
        if lists not in ("view", "compact"):
            raise ValueError(f"expected lists 'view' or 'compact', got {lists!r}")
        self._rows: Rows = rows_of(data, columns, as_stored=as_stored)
        for field in self._rows.schema:
            if (why := ragged.refusal(field.type)) is not None:
                raise UnsupportedType(f"column {field.name!r} is {field.type}: {why}")
        unknown = sorted(set(fill or {}) - set(self._rows.schema.names))
        if unknown:
            raise NoSuchColumn(
                f"fill names {unknown}, which are not among the columns {self._rows.schema.names[:20]}"
            )
        self._fill = dict(fill or {})
        for name, kind in self._rows.stored.items():
            if name in self._fill and kind != "fp16":
                self._fill[name] = code_of(kind, self._fill[name])
        self._stored = {name: _STORED[kind] for name, kind in self._rows.stored.items()}
        self._batch_rows, self._window_pages, self._lists = batch_rows, window_pages, lists
        self._shuffle, self._seed, self._drop_last = shuffle, seed, drop_last
        self._stretches = self._rows.stretches(page_rows)
        self._rank, self._world_size = _place(rank, world_size)
        self._epoch_number = 0
        self._given = 0
        self._resume: dict[str, int] | None = None
        plan = (
            shuffle,
            seed,
            page_rows,
            window_pages,
            batch_rows,
            drop_last,
            self._world_size,
            self._rows.identity,
        )
        self._plan = hashlib.blake2b(repr(plan).encode(), digest_size=16).hexdigest()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration, which starts at its front."""
        self._epoch_number, self._given, self._resume = epoch, 0, None

    @property
    def epoch(self) -> int:
        """The number given to ``set_epoch``, or that of the state loaded last."""
        return self._epoch_number

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return len(self._share(self._epoch()))

    def _epoch(self) -> Epoch:
        return Epoch(
            self._stretches,
            seed=self._seed,
            number=self._epoch_number,
            shuffle=self._shuffle,
            window=self._window_pages,
            batch_rows=self._batch_rows,
            drop_last=self._drop_last,
        )

    def _share(self, epoch: Epoch) -> range:
        return share(range(epoch.n_batches), self._rank, self._world_size, even=self._drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """This rank's batches of the epoch; in a loader's worker, the worker's part of them."""
        epoch = self._epoch()
        part, parts, self._given = self._start()
        self._resume = None
        batches = share(self._share(epoch), part, parts)
        return self._counted(self._batches(epoch, batches[self._given :]))

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._given += 1
            yield batch

    def _start(self) -> tuple[int, int, int]:
        """Which part of this rank's batches of how many is this process's, and how many of it came before."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        state = self._resume
        if state is None:
            return worker, workers, 0
        if state["workers"] != workers or state["worker"] not in (-1, worker):
            raise ValueError(
                f"expected to go on as worker {state['worker']} of {state['workers']}, as when the state was taken, got "
                f"{worker} of {workers}"
            )
        given = state["given"]
        if state["worker"] >= 0:
            return worker, workers, given
        # A loader asks its workers in turn from the first one, so that one takes the part whose turn it is.
        part = (worker + given) % workers
        return part, workers, handed_out(given, part, workers)

    def _batches(self, epoch: Epoch, batches: range) -> Iterator[Batch]:
        first, last = epoch.rows_of(batches)
        names = self._rows.schema.names
        pending: list[dict[str, Column]] = []
        n_pending = 0
        with RowReader(self._rows) as reader, ThreadPoolExecutor(1, "headrace-window") as ahead:
            windows = list(epoch.windows_of(first, last))
            coming = [ahead.submit(self._window, reader, epoch, window) for window in windows[:1]]
            for at, window in enumerate(windows):
                found = coming.pop().result()
                coming = [
                    ahead.submit(self._window, reader, epoch, number) for number in windows[at + 1 : at + 2]
                ]
                start = epoch.start(window)
                lo, hi = max(first - start, 0), min(last - start, _n_rows(found))
                shared: dict[str, torch.Tensor] = {}
                while lo < hi:
                    take = min(self._batch_rows - n_pending, hi - lo)
                    pending.append({name: found[name].at(slice(lo, lo + take)) for name in names})
                    lo, n_pending = lo + take, n_pending + take
                    if n_pending == self._batch_rows or start + lo == last:
                        whole = len(pending) == 1
                        columns = {name: ragged.joined([part[name] for part in pending]) for name in names}
                        yield {
                            name: self._tensors(name, columns[name], shared if whole else {})
                            for name in names
                        }
                        pending, n_pending = [], 0

    def _window(self, reader: RowReader, epoch: Epoch, window: int) -> dict[str, Column]:
        """The rows of one window, in the order of the stream."""
        parts: dict[str, list[Column]] = {name: [] for name in self._rows.schema.names}
        for stretch in epoch.windows[window]:
            rows = 0
            for batch in reader.read(stretch):
                rows += batch.num_rows
                for name, members in parts.items():
                    members.append(ragged.from_arrow(batch.column(name), name, self._fill.get(name)))
            if rows != stretch.rows:
                raise SchemaMismatch(
                    f"{self._rows.name}: expected {stretch.rows} rows from row {stretch.first} of file {stretch.file}, got "
                    f"{rows}; rows were erased since this dataset was made, make it anew"
                )
        permutation = epoch.permutation(window)
        columns = {name: ragged.joined(members) for name, members in parts.items()}
        if permutation is None:
            return columns
        return {name: column.at(permutation) for name, column in columns.items()}

    def _tensors(self, name: str, column: Column, shared: dict[str, torch.Tensor]) -> torch.Tensor | Jagged:
        kind = self._stored.get(name)
        if isinstance(column, Plain):
            return _tensor(column.values, kind)
        if self._lists == "compact":
            column = column.compact()
            values = _tensor(column.values, kind)
        else:
            # One tensor for all batches of a window: sent to another process, its items travel once.
            values = shared[name] if name in shared else shared.setdefault(name, _tensor(column.values, kind))
        return {"values": values, "offsets": _tensor(column.offsets), "sizes": _tensor(column.sizes)}

    def state_dict(self) -> dict[str, Any]:
        """Where iteration stands, as plain JSON values: after the batch that came last.

        It speaks of the iterator of this very object, so a plain ``DataLoader`` with workers cannot use it: take a
        ``Loader``, or torchdata's ``StatefulDataLoader``, which asks each worker.
        """
        info = get_worker_info()
        worker, workers = (-1, 1) if info is None else (info.id, info.num_workers)
        given = self._given
        if self._resume is not None:  # loaded, and not iterated yet
            worker, workers, given = (self._resume[key] for key in ("worker", "workers", "given"))
        return self._state(worker, workers, given)

    def _state(self, worker: int, workers: int, given: int) -> dict[str, Any]:
        return {
            "format": 1,
            "plan": self._plan,
            "rank": self._rank,
            "epoch": self._epoch_number,
            "worker": worker,
            "workers": workers,
            "given": given,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch that came last when ``state`` was taken: the next iteration yields the rest.

        Raises:
            ValueError: the state is of another rank, of other rows, or of other settings.
        """
        if state.get("format") != 1 or state.get("plan") != self._plan or state.get("rank") != self._rank:
            raise ValueError(
                "expected the state of a dataset over the same version, seed, page, window and batch sizes, rank and world "
                f"size, got one of rank {state.get('rank')} with another plan; start the epoch anew with set_epoch"
            )
        self._epoch_number = int(state["epoch"])
        self._resume = {key: int(state[key]) for key in ("worker", "workers", "given")}

    def loader(self, *, workers: int = 0, **options: Any) -> Loader:
        """A loader that reads in ``workers`` processes and knows where it stands.

        Args:
            workers: processes; 0 reads here.
            options: further ones of ``torch.utils.data.DataLoader``.
        """
        return Loader(self, workers, options)


class Loader:
    """A ``DataLoader`` over a ``JaggedDataset`` whose state can be taken after any batch."""

    def __init__(self, dataset: JaggedDataset, workers: int, options: Mapping[str, Any]) -> None:
        if options.get("persistent_workers"):
            raise ValueError(
                "expected persistent_workers unset: workers that outlive an epoch do not hear of the next one's number"
            )
        self.dataset = dataset
        self._workers = workers
        self._loader = DataLoader(dataset, batch_size=None, num_workers=workers, **options)
        self._given = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """As ``JaggedDataset.set_epoch``."""
        self.dataset.set_epoch(epoch)
        self._given = 0

    def __iter__(self) -> Iterator[Batch]:
        resumed = self.dataset._resume
        self._given = resumed["given"] if resumed else 0
        batches = iter(self._loader)
        self.dataset._resume = None  # workers took their copies along
        return self._counted(batches)

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """As ``JaggedDataset.state_dict``, whatever workers have read ahead."""
        resumed = self.dataset._resume
        given = resumed["given"] if resumed else self._given
        return self.dataset._state(-1, max(self._workers, 1), given)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As ``JaggedDataset.load_state_dict``.

        Raises:
            ValueError: another dataset's state, or one taken with another number of workers.
        """
        if state.get("worker") != -1 or state.get("workers") != max(self._workers, 1):
            raise ValueError(
                f"expected a state taken with {self._workers} workers, got one of {state.get('workers')}; make the loader "
                "with as many"
            )
        self.dataset.load_state_dict(state)


def _tensor(values: NDArray[Any], kind: torch.dtype | None = None) -> torch.Tensor:
    """A tensor over the same memory, even where that is marked as not to be written to, as Arrow's is.

    ``kind`` is what the bits of the values mean, where numpy has no dtype for it.
    """
    if kind is not None:
        return _tensor(values.view(f"i{values.itemsize}")).view(kind)
    if values.flags.writeable or not values.size:
        return torch.from_numpy(values if values.flags.writeable else values.copy())
    if values.dtype.kind == "b":
        return _tensor(values.view(np.uint8)).view(torch.bool)
    whole = np.ascontiguousarray(values)
    flat = pa.Array.from_buffers(pa.from_numpy_dtype(whole.dtype), whole.size, [None, pa.py_buffer(whole)])
    return torch.utils.dlpack.from_dlpack(flat).reshape(whole.shape)


def _n_rows(columns: Mapping[str, Column]) -> int:
    return len(next(iter(columns.values()))) if columns else 0


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(f"expected rank and world_size both or neither, got {rank} and {world_size}")
    if rank is None or world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
    if not 0 <= rank < world_size:
        raise ValueError(f"expected a rank from 0 to {world_size - 1}, got {rank}")
    return rank, world_size


__all__ = ["Batch", "Jagged", "JaggedDataset", "Loader"]
