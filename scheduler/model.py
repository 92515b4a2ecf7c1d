"""The scheduler without Spark, in plain Python: what ``FairQueue.java`` decides, and the slow twin it is tested against.

In the flow: nothing runs it in production. The tests play random traces through both and want identical orders; the
simulator and anybody who wants to understand a decision may read or run it. It holds no clock (time comes with each call)
and learns nothing (estimates come with each submission). Times are in ms, work in core-µs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from headrace.scheduler.virtual import Flow, PaperQueue, SelfQueue, VirtualJob

GRACE_MS = 3_000.0
SETTLE_MS = 500.0
FORGET_MS = 5_000.0
BARRIER_PATIENCE_MS = 3_000.0
BARRIER_HOLD_MS = 10_000.0
BURST_MS = 500.0
MEAN_OF = 3
WAVERS = 0.5


@dataclass(eq=False)
class User:
    """Who pays; service is in core-µs."""

    name: str
    weight: float
    refilled: float
    cap: float = 1.0
    min_share: int = 0
    running: int = 0
    served: int = 0
    committed: int = 0
    tokens: float = 0.0


@dataclass(eq=False)
class Job(VirtualJob):
    """One SQL execution, micro-batch or RDD action."""

    key: str = ""
    user: User = field(default_factory=lambda: User("", 1.0, 0.0))
    prior: int = 0
    known: int = 0
    credited: int = 0
    spent: int = 0
    live: int = 0
    idle_since: float = 0.0


@dataclass(frozen=True)
class Submission:
    """What is known of a task set when it is submitted; ``job_prior`` is 0 where only stages are estimated."""

    user: str
    job: str
    tasks: int
    prior: int
    weight: float = 1.0
    min_share: int = 0
    spark_job: int = 0
    stage: int = 0
    barrier: bool = False
    job_prior: int = 0


@dataclass(eq=False)
class Entry:
    """A task set that was submitted and is not yet removed."""

    id: int
    job: Job
    submission: Submission
    submitted: float
    work: int
    credited: int = 0
    spent: int = 0
    committed: int = 0
    running: int = 0
    needy: bool = False
    share: float = 0.0
    deadline: float = 0.0

    @property
    def begun(self) -> bool:
        """Whether a task of its job was ever started."""
        return self.running > 0 or self.job.spent > 0


def _virtual(e: Entry) -> tuple[object, ...]:
    return not e.needy, e.deadline, e.job.seq, e.submission.stage, e.id


def _fair(e: Entry) -> tuple[object, ...]:
    return not e.needy, e.share, e.job.user.name, e.running, e.job.seq, e.submission.stage, e.id


def _fifo(e: Entry) -> tuple[object, ...]:
    return e.submission.spark_job, e.submission.stage, e.id


POLICIES: dict[str, Callable[[Entry], tuple[object, ...]]] = {
    "uwfq": _virtual,
    "ujf": _fair,
    "cfq": _virtual,
    "fifo": _fifo,
}
"""The key each policy sorts by."""


def _finish_first(ordered: list[Entry]) -> list[Entry]:
    """What has begun is put aside only for what is due earlier by more than estimates waver."""
    begun = next((entry for entry in ordered if entry.begun), None)
    if begun is None:
        return ordered

    def earlier(other: Entry) -> bool:
        wavers = WAVERS * other.job.ranked / other.job.flow.weight
        return other.needy != begun.needy or other.deadline < begun.deadline - wavers

    at = ordered.index(begun)
    ahead = [other for other in ordered[:at] if earlier(other)]
    behind = [other for other in ordered[:at] if not earlier(other)]
    return [*ahead, begun, *behind, *ordered[at + 1 :]]


class FairQueue:
    """Orders task sets for a policy; ``wall`` takes the paper's clock instead of the work really completed.

    >>> queue = FairQueue("uwfq", wall=False, cores=2)
    >>> _ = queue.submit(Submission("heavy", "backfill", tasks=100, prior=60_000_000))
    >>> _ = queue.submit(Submission("ann", "query", tasks=2, prior=200_000))
    >>> [entry.job.key for entry in queue.order(queue.entries.values())]
    ['query', 'backfill']
    """

    def __init__(self, policy: str, *, wall: bool, cores: int, now: float = 0.0) -> None:
        self.policy = policy
        self.wall = wall
        self.cores = max(1, cores)
        self.now = now
        grace = GRACE_MS * 1000.0 * self.cores / 2.0
        self.virtual = PaperQueue(grace) if wall else SelfQueue(grace)
        self.users: dict[str, User] = {}
        self.flows: dict[str, Flow] = {}
        self.jobs: dict[str, Job] = {}
        self.entries: dict[int, Entry] = {}
        self._weights: dict[str, float] = {}
        self._caps: dict[str, float] = {}
        self._idle: list[tuple[Job, float]] = []
        self._settled: list[tuple[Job, float]] = []
        self._seq = 0
        self._ids = 0

    def advance(self, now: float) -> None:
        """Move on to ``now``; on the wall clock the virtual system has worked on all cores meanwhile."""
        passed = max(0.0, now - self.now)
        self.now += passed
        if self.wall:
            self.virtual.serve(passed * 1000.0 * self.cores)
        self._tidy()

    def set_weight(self, user: str, weight: float) -> None:
        """Change a user's share; wins over what submissions say."""
        self._weights[user] = weight
        if user in self.users:
            self._reweigh(self.users[user], weight)

    def set_cap(self, user: str, cap: float) -> None:
        """Limit a user to a share of all cores; 1 lifts the limit."""
        self._caps[user] = cap
        if user in self.users:
            self._cap(self.users[user], cap)

    def submit(self, s: Submission) -> Entry:
        """Take in a task set."""
        user = self.users.get(s.user)
        if user is None:
            user = self.users[s.user] = User(s.user, self._weights.get(s.user, 1.0), self.now)
            if s.user in self._caps:
                self._cap(user, self._caps[s.user])
        user.min_share = s.min_share
        weight = self._weights.get(s.user, s.weight)
        if weight != user.weight:
            self._reweigh(user, weight)
        returning = s.job in self.jobs
        if not returning:
            flow = self._flow(f"job {s.job}" if self.policy == "cfq" else s.user, user)
            self.jobs[s.job] = Job(flow, self._seq, key=s.job, user=user)
            self._seq += 1
        job = self.jobs[s.job]
        entry = self.entries[self._ids] = Entry(self._ids, job, s, self.now, s.prior)
        self._ids += 1
        job.live += 1
        job.prior = max(job.prior, s.job_prior)
        job.known += s.prior
        self._resize(job, returning)
        return entry

    def observe(
        self, entry: Entry, done: int, done_us: int, wasted_us: int, running_us: Sequence[int]
    ) -> None:
        """Take in what is known of a task set's tasks: successes and their time, wasted time, time of running ones."""
        user, s = entry.job.user, entry.submission
        service = max(0, done_us + wasted_us + sum(running_us) - entry.spent)
        entry.spent += service
        entry.job.spent += service
        user.served += service
        user.tokens -= service
        user.running += len(running_us) - entry.running
        entry.running = len(running_us)
        unit = done_us / done if done >= MEAN_OF else s.prior / s.tasks
        to_come = unit * max(0, s.tasks - done - len(running_us))
        committed = 0
        for elapsed in running_us:
            to_come += max(0.0, unit - elapsed)
            committed += int(max(0.0, unit - elapsed))
        user.committed += committed - entry.committed
        entry.committed = committed
        if self.wall:
            return
        seen = entry.spent + int(to_come)
        work = max(s.prior, seen)
        credit = max(0, int(float(work) * entry.spent / seen) - entry.credited if seen > 0 else 0)
        entry.credited += credit
        entry.job.credited += credit
        entry.job.known += work - entry.work
        entry.work = work
        self._resize(entry.job, returning=False)
        self.virtual.serve(credit)

    def remove(self, entry: Entry) -> None:
        """A task set's work was done, or will never be."""
        job = entry.job
        del self.entries[entry.id]
        job.user.running -= entry.running
        job.user.committed -= entry.committed
        if not self.wall:
            job.known += entry.credited - entry.work
            self._resize(job, returning=False)
        job.live -= 1
        if job.live == 0:
            job.idle_since = self.now
            self._idle.append((job, self.now))

    def order(self, schedulable: Iterable[Entry]) -> list[Entry]:
        """The task sets as cores should be offered to them; those of a user at its cap are left out."""
        waiting = list(schedulable)
        for entry in waiting:
            if self._starving(entry):
                return [entry]
        free = [entry for entry in waiting if not self._capped(entry.job.user)]
        for entry in free:
            user = entry.job.user
            entry.needy = user.running < user.min_share
            entry.share = user.running / (user.min_share if entry.needy else user.weight)
            if self.policy in ("uwfq", "cfq"):
                entry.deadline = self.virtual.deadline(entry.job)
        ordered = sorted(free, key=POLICIES[self.policy])
        return _finish_first(ordered) if self.policy in ("uwfq", "cfq") and not self.wall else ordered

    def _starving(self, entry: Entry) -> bool:
        if not entry.submission.barrier or entry.running > 0:
            return False
        waited = self.now - entry.submitted
        phase = math.fmod(waited - BARRIER_PATIENCE_MS, BARRIER_PATIENCE_MS + BARRIER_HOLD_MS)
        return waited >= BARRIER_PATIENCE_MS and phase < BARRIER_HOLD_MS and not self._capped(entry.job.user)

    def _capped(self, user: User) -> bool:
        if user.cap >= 1.0:
            return False
        rate = user.cap * self.cores * 1000.0
        user.tokens = min(user.tokens + rate * (self.now - user.refilled), rate * BURST_MS)
        user.refilled = self.now
        return user.running >= math.ceil(user.cap * self.cores) or user.tokens <= user.committed

    def _resize(self, job: Job, returning: bool) -> None:
        if self.policy in ("uwfq", "cfq"):
            owed = self.virtual.resize(job, max(job.prior, job.known), returning=returning)
            self.virtual.set_rest(job, max(job.prior, job.known) - job.credited)
            if owed > 0:
                self.virtual.serve(owed)

    def _flow(self, name: str, user: User) -> Flow:
        flow = self.flows.setdefault(name, Flow(name, user.weight))
        if not flow.active:
            flow.weight = user.weight
        return flow

    def _reweigh(self, user: User, weight: float) -> None:
        user.weight = weight
        if self.policy == "cfq":
            own = [job.flow for job in self.jobs.values() if job.user is user]
        else:
            own = [self.flows[user.name]] if user.name in self.flows else []
        for flow in own:
            self.virtual.set_weight(flow, weight)

    def _cap(self, user: User, cap: float) -> None:
        user.cap = cap
        user.refilled = self.now
        user.tokens = cap * self.cores * 1000.0 * BURST_MS

    def _tidy(self) -> None:
        while self._idle and self.now - self._idle[0][1] >= SETTLE_MS:
            job, since = self._idle.pop(0)
            if job.live == 0 and job.idle_since == since:
                job.prior = 0
                if not self.wall:
                    self._resize(job, returning=False)
                if self.policy in ("uwfq", "cfq"):
                    self.virtual.end(job)
                self._settled.append((job, since))
        while self._settled and self.now - self._settled[0][1] >= FORGET_MS:
            job, since = self._settled[0]
            still = job.live == 0 and job.idle_since == since
            if self.wall and still and job.queued:
                break
            self._settled.pop(0)
            if still:
                del self.jobs[job.key]
                self._drop(job.flow)
        if not self.wall and not self.entries and not self._idle:
            self.virtual.serve(sys.float_info.max)  # nobody waits: what is left is rounding
        for flow in self.virtual.take_emptied():
            self._drop(flow)

    def _drop(self, flow: Flow) -> None:
        if not flow.active and all(job.flow is not flow for job in self.jobs.values()):
            self.flows.pop(flow.name, None)


def play(lines: Iterable[str]) -> list[str]:
    """Play a trace, one event a line as ``Trace.java`` reads them; the ids of each order, or the count of what is kept, asked for."""
    queue = FairQueue("uwfq", wall=False, cores=1)
    entries: dict[str, Entry] = {}
    orders: list[str] = []
    for line in lines:
        verb, *w = line.split()
        if verb == "begin":
            queue, entries = FairQueue(w[0], wall=w[1] == "wall", cores=int(w[2])), {}
        elif verb == "now":
            queue.advance(float(w[0]))
        elif verb == "weight":
            queue.set_weight(w[0], float(w[1]))
        elif verb == "cap":
            queue.set_cap(w[0], float(w[1]))
        elif verb == "submit":
            entries[w[0]] = queue.submit(
                Submission(
                    user=w[1],
                    weight=float(w[2]),
                    min_share=int(w[3]),
                    job=w[4],
                    spark_job=int(w[5]),
                    stage=int(w[6]),
                    tasks=int(w[7]),
                    barrier=w[8] == "barrier",
                    prior=int(w[9]),
                    job_prior=int(w[10]),
                )
            )
        elif verb == "observe":
            queue.observe(entries[w[0]], int(w[1]), int(w[2]), int(w[3]), [int(x) for x in w[4:]])
        elif verb == "remove":
            queue.remove(entries.pop(w[0]))
        elif verb == "order":
            orders.append(" ".join(str(entry.id) for entry in queue.order(entries.values())))
        elif verb == "count":
            kept = (queue.users, queue.jobs, queue.flows, queue.entries)
            orders.append(" ".join(str(len(held)) for held in kept))
    return orders
