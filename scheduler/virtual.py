"""The virtual machine that users share, in plain Python: the slow twin of ``VirtualQueue.java`` and its two second levels.

In the flow: ``model`` drives it as ``FairQueue.java`` drives its own. A flow's jobs are a sorted list and the active flows a
set, so each step costs O(n) and reads like the definition; every float is computed by the same operations in the same order
as in Java, so deadlines are equal to the last bit.

Source: arXiv 2510.15485 (user-weighted fair queuing), with weights as in weighted fair queuing. Work is in core-µs, virtual
time in core-µs per unit of weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(eq=False)
class Flow:
    """What shares the machine: a user under uwfq, a job under cfq."""

    name: str
    weight: float
    v: float = 0.0
    start: float = 0.0
    end: float = 0.0
    seen: float = 0.0
    active: bool = False
    chain: list[VirtualJob] = field(default_factory=list)

    def place(self, job: VirtualJob) -> None:
        """Put ``job`` where it belongs in the chain."""
        if job not in self.chain:
            self.chain.append(job)
        self.chain.sort(key=lambda other: (other.due, other.seq))


@dataclass(eq=False)
class VirtualJob:
    """A job as the virtual machine sees it; ``due`` is its place in its flow's chain."""

    flow: Flow
    seq: int
    work: int = 0
    before: int = 0
    ranked: int = 0
    entered: float = 0.0
    deadline: float = 0.0
    queued: bool = False
    rest: int = 0

    @property
    def due(self) -> float:
        """When it would be done, on the flow's own clock."""
        return self.entered + self.ranked


class VirtualQueue:
    """Serves flows by weight; ``grace`` is the virtual time after which a returning job has lost its place."""

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.now = 0.0
        self.weights = 0.0
        self.active: set[Flow] = set()
        self._emptied: list[Flow] = []

    def serve(self, service: float) -> None:
        """Give the active flows ``service`` core-µs in all, each by its weight; what nobody needs is lost."""
        while service > 0 and self.active:
            first = min(self.active, key=lambda flow: (flow.end, flow.name))
            need = max(0.0, (first.end - self.now) * self.weights)
            if need > service:
                self.now += service / self.weights
                return
            self.now = max(self.now, first.end)
            service -= need
            self.active.remove(first)
            first.active = False
            self.weights = self.weights - first.weight if self.active else 0.0
            self._emptied.append(first)
            self._at_end(first)

    def set_weight(self, flow: Flow, weight: float) -> None:
        """Change a flow's share from now on."""
        if flow.active:
            flow.start = self.now - (self.now - flow.start) * flow.weight / weight
            flow.end = self.now + (flow.end - self.now) * flow.weight / weight
            self.weights += weight - flow.weight
        flow.weight = weight

    def take_emptied(self) -> list[Flow]:
        """Flows that ran empty since the last call."""
        taken, self._emptied = self._emptied, []
        return taken

    def _at_end(self, flow: Flow) -> None:
        """Virtual time has reached the end of ``flow``."""

    def _wake(self, flow: Flow, *, returning: bool) -> None:
        if not (returning and self.now - flow.end <= self.grace):
            flow.end = self.now
        flow.start = flow.end
        flow.seen = self.now
        flow.active = True
        self.active.add(flow)
        self.weights += flow.weight

    def _received(self, flow: Flow) -> float:
        if not flow.active:
            return 0.0
        received = (self.now - flow.seen) * flow.weight
        flow.seen = self.now
        return received


class PaperQueue(VirtualQueue):
    """The paper's second level: deadlines one after the other, from the flow's start on; real progress is not looked at.

    >>> queue = PaperQueue(grace=0.0)
    >>> heavy, small = Flow("heavy", 1.0), Flow("small", 1.0)
    >>> jobs = [VirtualJob(heavy, 0), VirtualJob(heavy, 1), VirtualJob(small, 2)]
    >>> [queue.resize(job, work, returning=False) for job, work in zip(jobs, (6_000, 6_000, 200))]
    [0.0, 0.0, 0.0]
    >>> [queue.deadline(job) for job in jobs]
    [6000.0, 12000.0, 200.0]
    """

    def resize(self, job: VirtualJob, total: int, *, returning: bool) -> float:
        """Say how much work a job is in all; what it grows by after it was virtually done enters again."""
        flow = job.flow
        self._catch_up(flow)
        if job.queued:
            work = max(total - job.before, math.ceil(flow.v - job.entered))
            if work == job.work:
                return 0.0
            job.work = job.ranked = work
        elif total > job.before:
            if not flow.active:
                self._wake(flow, returning=returning)
            job.work = job.ranked = total - job.before
            job.entered = flow.v
            job.queued = True
        else:
            return 0.0
        flow.place(job)
        flow.end = flow.start + sum(other.work for other in flow.chain) / flow.weight
        return 0.0

    def set_rest(self, job: VirtualJob, rest: int) -> None:
        """The paper does not look at what is still to come."""

    def end(self, job: VirtualJob) -> None:
        """The paper does not look at what has ended."""

    def deadline(self, job: VirtualJob) -> float:
        """Global virtual time by which the job is done, or was."""
        if not job.queued:
            return job.deadline
        flow = job.flow
        ahead = flow.chain[: flow.chain.index(job) + 1]
        return flow.start + sum(other.work for other in ahead) / flow.weight

    def set_weight(self, flow: Flow, weight: float) -> None:
        """Change a flow's share from now on."""
        self._catch_up(flow)
        super().set_weight(flow, weight)

    def _at_end(self, flow: Flow) -> None:
        while flow.chain:
            self._retire(flow)

    def _catch_up(self, flow: Flow) -> None:
        received = self._received(flow)
        while flow.chain:
            need = (flow.chain[0].due - flow.v) * len(flow.chain)
            if need > received:
                flow.v += received / len(flow.chain)
                return
            received -= need
            self._retire(flow)

    def _retire(self, flow: Flow) -> None:
        job = flow.chain.pop(0)
        flow.v = max(flow.v, job.due)
        flow.start += job.work / flow.weight
        job.deadline = flow.start
        job.before += job.work
        job.queued = False


class SelfQueue(VirtualQueue):
    """Our second level: deadlines counted back from the flow's end, by what is really still to come."""

    def resize(self, job: VirtualJob, total: int, *, returning: bool) -> float:
        """Say how much work a job is in all; returned is virtual service that the caller owes to the others."""
        flow = job.flow
        flow.v += self._received(flow) / max(1, len(flow.chain))
        grown = total - job.work
        if not job.queued:
            job.ranked = max(1, grown)
            job.entered = flow.v
            job.queued = True
            flow.place(job)
        job.work = total
        if grown == 0:
            return 0.0
        if grown < 0 and not flow.active:
            return float(-grown)
        if not flow.active:
            self._wake(flow, returning=returning)
        end = flow.end + grown / flow.weight
        owed = max(0.0, (self.now - end) * flow.weight) if grown < 0 else 0.0
        flow.end = self.now if owed > 0 else end
        return owed

    def set_rest(self, job: VirtualJob, rest: int) -> None:
        """Say how much real work is still to come; twice what the job was ranked by sends it behind its flow's others."""
        job.rest = rest
        if job.queued and rest > 2 * job.ranked:
            job.ranked = max(0, math.ceil(job.flow.v - job.entered)) + rest
            job.flow.place(job)

    def end(self, job: VirtualJob) -> None:
        """Say that a job has really ended."""
        if job.queued:
            job.flow.v += self._received(job.flow) / len(job.flow.chain)
            job.flow.chain.remove(job)
            job.queued = False

    def deadline(self, job: VirtualJob) -> float:
        """Global virtual time by which the job should be done."""
        flow = job.flow
        if not job.queued:
            return flow.end
        behind = flow.chain[flow.chain.index(job) + 1 :]
        return flow.end - sum(other.rest for other in behind) / flow.weight
