"""A table as one driver of a query writes to it: whoever drove the query before commits to it no more.

In the flow: between ``microbatch``, or a learner that reports, and the store. A driver that was taken for dead and was not, a
zombie, would otherwise commit batches beside its successor. With its first batch a driver draws the query's next epoch, which
each of its commits then carries; one of an older epoch is refused (`Table.fence`). A driver without a batch writes nothing.

Who changes what a driver has in memory, as an erasure of persons does, sets it aside in the same way: it finds that no other driver has
come after it, and begins anew from what is committed now.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping

from headrace import storage
from headrace.storage.manifest import DataFile

_ERASURE = "an erasure of persons, after epoch "
"""How one holds a query; what follows is the epoch of the driver that was set aside."""


def set_aside(table: storage.Table, query_id: str) -> None:
    """Keep the driver of a query from committing what it has in memory."""
    held = table.refresh()._manifest.standing.fence(query_id)
    holder, epoch = (held.holder, held.epoch) if held is not None else ("", 0)
    table.fence(query_id, holder if holder.startswith(_ERASURE) else f"{_ERASURE}{epoch}")


class Sink:
    """Commits to ``table`` as the one driver of a query."""

    def __init__(self, table: storage.Table) -> None:
        self.table = table
        self._query_id = ""
        self._epoch: int | None = None

    def take_over(self, query_id: str) -> bool:
        """Fence whoever drove the query before; False if this driver has done so already."""
        if query_id == self._query_id:
            return False
        self._epoch = self.table.fence(query_id, f"process {os.getpid()} on {platform.node()}")
        self._query_id = query_id
        return True

    def is_set_aside(self) -> bool:
        """Whether erasures alone have fenced this driver, and no other one."""
        held = self.table.refresh()._manifest.standing.fence(self._query_id)
        return held is not None and held.holder == f"{_ERASURE}{self._epoch}"

    def commit(
        self,
        files: Iterable[DataFile],
        key: tuple[str, int],
        attachments: Mapping[str, bytes] | None = None,
    ) -> storage.Commit:
        """Publish a batch; as ``Table.commit``.

        Raises:
            CommitFenced: another driver has taken over since; nothing was committed.
        """
        self.take_over(key[0])
        return self.table.commit(files, key=key, attachments=attachments, epoch=self._epoch)
