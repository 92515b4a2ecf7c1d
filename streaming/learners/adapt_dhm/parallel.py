"""Synchronous data-parallel steps: several processes learn the same batches and end with the same model, to rounding.

In the flow: for those who outgrow one trainer; `jobs/together.py` starts one process a Spark executor. Every process holds the whole model and is
given every batch; each does its slice of forward and backward. Gradients of dense weights and of the rows are summed over all (gloo), then
every process takes the same step, so tables admit and evict alike. It pays where the network is large: look-ups are done by all.

Processes meet through a file that all can reach, so that nobody listens for a rendezvous.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headrace.streaming.learners.adapt_dhm.model import AdaptDHM
from headrace.streaming.learners.embedding.keys import U64


class Together:
    """The processes that learn together; a context manager.

    meet: a file that does not exist yet, the same for all. loopback: all are on this machine, and talk over its loopback alone.
    """

    def __init__(self, meet: Path | str, rank: int, size: int, *, loopback: bool = False) -> None:
        self._meet, self.rank, self.size, self._loopback = str(meet), rank, size, loopback

    def __enter__(self) -> "Together":
        torch.set_num_threads(1)
        if self._loopback:
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # gloo asks there which interface it may use
        store = torch.distributed.FileStore(self._meet, self.size)  # pyright: ignore[reportPrivateImportUsage]
        torch.distributed.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size)
        return self

    def __exit__(self, *error: Any) -> None:
        torch.distributed.destroy_process_group()

    def learn(self, model: AdaptDHM, keys: U64, numbers: Any, labels: Any, now: float) -> None:
        """One step of `model` on a batch that every process was given; see `AdaptDHM.learn`."""
        n = len(labels)
        mine = slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)
        rows = model.table.locate(keys, now)
        dense, wanted = torch.from_numpy(numbers), torch.from_numpy(labels)
        if model.shape.numbers:
            model.measure(dense)
        logits, _, x, sums = model.score(rows[mine], dense[mine])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted[mine], reduction="sum") / n
        loss.backward()
        factors, x_gradient, sums_gradient = model.table.gradients()
        model.table.keep(rows, factors, self._whole(x_gradient, mine, n), self._whole(sums_gradient, mine, n))
        for parameter in model.parameters():
            if parameter.grad is None:  # a cluster that none of this slice went to
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
        every = [torch.from_numpy(self._whole(part.detach().numpy(), mine, n)) for part in (x, sums)]
        model.routing.after(every[0], every[1], wanted)
        model.step()

    def _whole(self, part: Any, mine: slice, n: int) -> Any:
        """Everybody's slices of `float32[n, D]`, of which `part` is this process's."""
        whole = np.zeros((n, part.shape[1]), np.float32)
        whole[mine] = part
        if whole.size:
            torch.distributed.all_reduce(torch.from_numpy(whole))
        return whole
