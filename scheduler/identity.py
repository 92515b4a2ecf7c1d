"""Whose job it is: local properties of the calling thread, set for a while and put back.

In the flow: Spark copies a thread's local properties into each job it submits; ``Identity.java`` reads them there. Where
nobody says anything, Connect, Kyuubi, streaming queries, pools and job groups have left a name already.

Spark's thread pools and plain ``threading.Thread`` neither inherit nor clear local properties: use
``pyspark.InheritableThread`` for a thread that works for the caller's user, and ``carry`` for a pool's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from headrace.scheduler.errors import BadSetting
from headrace.scheduler.settings import require_user, require_weight

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

P = ParamSpec("P")
R = TypeVar("R")

USER = "headrace.user"
WEIGHT = "headrace.weight"
CLASS = "headrace.jobClass"
COST_MS = "headrace.costMs"
SIZE = "headrace.size"
PARTITIONING = "headrace.partitioning"

_acting: ContextVar[tuple[SparkSession, dict[str, str | None]] | None] = ContextVar("acting", default=None)


@contextmanager
def run_as(
    spark: SparkSession,
    user: str,
    *,
    weight: float | None = None,
    job_class: str | None = None,
    cost_ms: float | None = None,
    size: float | None = None,
    partitioning: bool = True,
) -> Iterator[None]:
    """Run the jobs of this block, in this thread, as ``user``; on exit the thread is whose it was.

    Args:
        spark: a classic session; a Connect client's user is known to its server.
        weight: the user's share against others' 1, until ``set_weight`` says otherwise.
        job_class: jobs of one class are taken to cost alike; needed for a cost to be learnt and found again.
        cost_ms: what one job of this block will cost, in core-ms, where you know better.
        size: bytes or rows that one job of this block reads; learnt costs are scaled by it.
        partitioning: switch it off to leave the partitions of these jobs alone.

    Raises:
        BadSetting: a value is not what it may be.
    """
    for name, value in (("cost_ms", cost_ms), ("size", size)):
        if value is not None and not 0 < value < float("inf"):
            raise BadSetting(
                f"expected {name} to be finite and above 0, got {value!r}; leave it out if unknown"
            )
    wanted: dict[str, str | None] = {
        USER: require_user(user),
        WEIGHT: None if weight is None else repr(require_weight(weight, user)),
        CLASS: job_class,
        COST_MS: None if cost_ms is None else repr(float(cost_ms)),
        SIZE: None if size is None else repr(float(size)),
        PARTITIONING: None if partitioning else "false",
    }
    token = _acting.set((spark, wanted))
    try:
        with _applied(spark, wanted):
            yield
    finally:
        _acting.reset(token)


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, to be called in any thread as the user that this thread acts for now.

    For thread pools and ``asyncio.to_thread``, whose threads have worked for others before and will again:
    ``pool.submit(scheduler.carry(query))``. Outside of ``run_as`` the function is returned as it is.
    """
    acting = _acting.get()
    if acting is None:
        return function
    spark, wanted = acting

    @wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        with _applied(spark, wanted):
            return function(*args, **kwargs)

    return carried


@contextmanager
def _applied(spark: SparkSession, wanted: dict[str, str | None]) -> Iterator[None]:
    context = spark.sparkContext
    before = {name: context.getLocalProperty(name) for name in wanted}
    try:
        for name, value in wanted.items():
            context.setLocalProperty(name, value)  # pyright: ignore[reportArgumentType]  # None clears it
        yield
    finally:
        for name, value in before.items():
            context.setLocalProperty(name, value)  # pyright: ignore[reportArgumentType]
