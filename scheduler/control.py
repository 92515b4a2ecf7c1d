"""Questions to the running scheduler, and what may be changed while it runs.

In the flow: each call goes to ``Control.java`` through the session's gateway; answers are plain values, copied under Spark's
scheduler lock. All times are in ms, costs in core-ms.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.scheduler.errors import BadSetting, NotInstalled
from headrace.scheduler.settings import require_cap, require_user, require_weight

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OVERHEAD_SHARE = 0.1
"""Of a job's cost, the most that launching its tasks may take."""


@dataclass(frozen=True)
class UserRow:
    """A user now. ``lag_ms``: service that it is owed (above 0) or has had ahead of its share."""

    user: str
    weight: float
    cap: float
    running: int
    served_ms: float
    lag_ms: float
    jobs_ended: int
    mean_response_ms: float


@dataclass(frozen=True)
class JobRow:
    """A job that has task sets now. ``deadline_ms``: in virtual time; lower goes first, unless what is like it has begun."""

    user: str
    job: str
    deadline_ms: float
    estimate_ms: float
    spent_ms: float
    running: int
    waiting: int
    age_ms: float


@dataclass(frozen=True)
class EndedRow:
    """One of the last jobs that ended: estimate against reality."""

    user: str
    job: str
    estimate_ms: float
    spent_ms: float
    response_ms: float


@dataclass(frozen=True)
class Snapshot:
    """The scheduler at one moment; ``str`` is a table for people.

    Attributes:
        stepped_back: something failed, and Spark's own order goes on; the driver's log says what.
        users: those served most first, 200 at most.
        jobs: in order of their deadlines, 200 at most.
        ended: the last 500.
    """

    policy: str
    clock: str
    stepped_back: bool
    cores: int
    virtual_time_ms: float
    mean_sort_us: float
    overhead_ms: float
    users: tuple[UserRow, ...]
    jobs: tuple[JobRow, ...]
    ended: tuple[EndedRow, ...]

    def __str__(self) -> str:
        head = (
            f"policy {self.policy}, clock {self.clock}, {self.cores} cores, virtual time {self.virtual_time_ms:.0f} ms"
            + (", STEPPED BACK: see the driver's log" if self.stepped_back else "")
        )
        users = [
            f"{u.user:<24} weight {u.weight:g}  cap {u.cap:g}  running {u.running}  served {u.served_ms / 1e3:.1f} core-s  "
            f"lag {u.lag_ms / 1e3:+.1f}  {u.jobs_ended} jobs, mean response {u.mean_response_ms / 1e3:.2f} s"
            for u in self.users
        ]
        jobs = [
            f"{number}. {j.job} of {j.user}: deadline {j.deadline_ms:.0f}, {j.running} tasks run, {j.waiting} wait, "
            f"{j.spent_ms / 1e3:.1f} of about {j.estimate_ms / 1e3:.1f} core-s"
            for number, j in enumerate(self.jobs, 1)
        ]
        return "\n".join([head, *users, *jobs])


@dataclass(frozen=True)
class Why:
    """Why a job stands where it does; ``str`` says it in a sentence or two."""

    job: JobRow
    owner: UserRow
    capped: bool
    ahead: tuple[JobRow, ...]

    def __str__(self) -> str:
        name = f"{self.job.job} of {self.owner.user}"
        if self.capped:
            return f"{name} waits for its user's cap of {self.owner.cap:g} of the cores; set_cap lifts it"
        if not self.job.waiting:
            return f"{name} waits for nothing: its last {self.job.running} tasks are running"
        if not self.ahead:
            return f"{name} is first: the next free core is its own"
        work = sum(max(0.0, other.estimate_ms - other.spent_ms) for other in self.ahead)
        users = sorted({other.user for other in self.ahead})
        return (
            f"{name} waits behind {len(self.ahead)} jobs of {', '.join(users[:5])}{' and others' if len(users) > 5 else ''} with "
            f"about {work / 1e3:.1f} core-s to go; its deadline is {self.job.deadline_ms:.0f} in virtual time, theirs are lower or they "
            f"have begun, and its user's lag is {self.owner.lag_ms / 1e3:+.1f} core-s"
        )


def snapshot(spark: SparkSession) -> Snapshot:
    """Users, jobs and deadlines now, and how the last jobs' estimates compare with what they took.

    Raises:
        NotInstalled: the application runs without the plugin.
    """
    answer = json.loads(_control(spark).snapshot())
    rows = {
        "users": tuple(_row(UserRow, row) for row in answer["users"]),
        "jobs": tuple(_row(JobRow, row) for row in answer["jobs"]),
        "ended": tuple(_row(EndedRow, row) for row in answer["ended"]),
    }
    return _row(Snapshot, {**answer, **rows})


def why(spark: SparkSession, job: str) -> Why:
    """Why ``job`` (a name from ``snapshot``, or the number of a SQL execution) stands where it does.

    Raises:
        BadSetting: no such job is known now.
        NotInstalled: the application runs without the plugin.
    """
    name = f"execution {job}" if str(job).isdigit() else job
    said = _control(spark).why(name)
    if said is None:
        raise BadSetting(
            f"expected a job that is running or ended a moment ago, got {job!r}; snapshot(spark).jobs names them"
        )
    answer = json.loads(said)
    return Why(
        job=_row(JobRow, answer),
        owner=_row(UserRow, answer["owner"]),
        capped=answer["capped"],
        ahead=tuple(_row(JobRow, row) for row in answer["ahead"]),
    )


def set_weight(spark: SparkSession, user: str, weight: float) -> None:
    """Change a user's share from now on, jobs that are waiting included.

    Raises:
        BadSetting: the weight is not finite and above 0.
        NotInstalled: the application runs without the plugin.
    """
    _control(spark).setWeight(require_user(user), require_weight(weight, user))


def set_cap(spark: SparkSession, user: str, cap: float) -> None:
    """Let a user have at most this share of all cores from now on; 1 lifts the cap. Running tasks are not stopped.

    Raises:
        BadSetting: the cap is not above 0 and at most 1.
        NotInstalled: the application runs without the plugin.
    """
    _control(spark).setCap(require_user(user), require_cap(cap, user))


def plan_partitions(spark: SparkSession, job_class: str, size: float) -> int:
    """How many partitions ``size`` bytes or rows of a class should be cut into, for ``parallelize`` and ``repartition``.

    So many that a task takes about the application's target, from what jobs of this class (run with the same kind of
    ``size``) have cost; never so many that launching them takes more than a tenth of it; as many as there are cores while
    nothing is known.

    Raises:
        BadSetting: the size is not finite and above 0.
        NotInstalled: the application runs without the plugin.
    """
    if not 0 < size < math.inf:
        raise BadSetting(f"expected a size above 0, got {size!r}; bytes or rows, as in run_as(size=…)")
    known: dict[str, float] = json.loads(_control(spark).costOf(job_class, float(size)))
    if known["us"] < 0:
        return int(known["cores"])
    return partitions(known["us"], known["target_us"], known["overhead_us"], int(known["cores"]))


def partitions(cost_us: float, target_us: float, overhead_us: float, cores: int) -> int:
    """Tasks of ``target_us`` each, at least one a core for more than one target's work, at most what overhead allows.

    >>> partitions(cost_us=20e6, target_us=500e3, overhead_us=5e3, cores=4)
    40
    >>> partitions(cost_us=0.2e6, target_us=500e3, overhead_us=5e3, cores=4)
    1
    >>> partitions(cost_us=20e6, target_us=10e3, overhead_us=20e3, cores=4)
    100
    """
    least = 1 if cost_us <= target_us else cores
    most = max(1, math.floor(OVERHEAD_SHARE * cost_us / overhead_us)) if overhead_us > 0 else math.inf
    return int(max(1, min(max(least, math.ceil(cost_us / target_us)), most)))


def _control(spark: SparkSession) -> Any:
    control: Any = None
    try:
        control = spark.sparkContext._jvm.headrace.scheduler.Control  # pyright: ignore[reportOptionalMemberAccess]
        there = control.installed()
    except (TypeError, AttributeError, RuntimeError):
        there = False  # no such class in that JVM, or no JVM behind this session
    if not there:
        raise NotInstalled(
            "this application runs without the headrace scheduler: build its session with scheduler.configure(builder) before "
            "the first getOrCreate, with a policy other than none; if you did, the driver's log says why it stepped back"
        )
    return control


Row = TypeVar("Row")


def _row(kind: type[Row], answer: dict[str, Any]) -> Row:
    return kind(**{f.name: answer[f.name] for f in fields(kind)})  # type: ignore[arg-type]
