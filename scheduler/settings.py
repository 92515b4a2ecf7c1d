"""What an application tells the scheduler at its start, checked here so that a mistake is seen before Spark begins.

In the flow: ``configure`` writes the settings into a session builder; ``Settings.properties`` writes the same into a
``spark-defaults.conf``, where ``spark-submit`` starts the JVM. ``Conf.java`` checks them again, since they may also be typed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.scheduler.build import JAR
from headrace.scheduler.errors import BadSetting, JarMissing

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PREFIX = "spark.headrace.scheduler."
PLUGIN = "headrace.scheduler.Plugin"
POLICIES = ("uwfq", "ujf", "cfq", "fifo", "none")
CLOCKS = ("self", "wall")


def jar() -> Path:
    """The plugin's jar.

    Raises:
        JarMissing: it was never built, because headrace was installed where there was no Spark.
    """
    if not JAR.exists():
        raise JarMissing(
            f"the scheduler's jar is not at '{JAR}': headrace was installed without Spark at hand. "
            "Run `python -m headrace.scheduler.build` in the environment that has pyspark and a JDK 17"
        )
    return JAR


def require_weight(value: float, whose: str) -> float:
    """A weight as it may be: finite and above 0.

    Raises:
        BadSetting: it is not.
    """
    if not (_is_number(value) and 0 < value < math.inf):
        raise BadSetting(
            f"expected a finite weight above 0 for user '{whose}', got {value!r}; 1 is an equal share"
        )
    return float(value)


def require_cap(value: float, whose: str) -> float:
    """A cap as it may be: a share of all cores, above 0 and at most 1.

    Raises:
        BadSetting: it is not.
    """
    if not (_is_number(value) and 0 < value <= 1):
        raise BadSetting(
            f"expected a cap above 0 and at most 1 for user '{whose}', got {value!r}; it is a share of all cores, "
            "and 1 lifts it"
        )
    return float(value)


def require_user(name: str) -> str:
    """A user's name as it may be: not empty, without ``,`` or a line break.

    Raises:
        BadSetting: it is not.
    """
    if not name or set(name) & set(",\n\r"):
        raise BadSetting(f"expected a user's name without comma or line break, got {name!r}; rename the user")
    return name


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Settings:
    """The scheduler of one application.

    Attributes:
        policy: ``uwfq``; ``ujf`` (fair per user), ``cfq`` (fair per job), ``fifo``, or ``none`` for Spark's own.
        clock: what virtual time follows: ``self``, the work really completed, or ``wall``, the paper's.
        weights: by user; 1 where none is named.
        caps: share of all cores that a user never exceeds for long; 1 where none is named.
        target_task_ms: how long a task should take where partitions are planned.
        partitioning: whether scans and shuffles are cut to that length from learnt cost.
        history: file in which learnt costs outlive the application.

    Raises:
        BadSetting: a value is not what it may be.
    """

    policy: str = "uwfq"
    clock: str = "self"
    weights: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, float] = field(default_factory=dict)
    target_task_ms: float = 500.0
    partitioning: bool = True
    history: Path | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise BadSetting(f"expected policy {', '.join(POLICIES)}, got {self.policy!r}; name one of them")
        if self.clock not in CLOCKS:
            raise BadSetting(f"expected clock self or wall, got {self.clock!r}; self is the default")
        if not (_is_number(self.target_task_ms) and 0 < self.target_task_ms <= 60_000):
            raise BadSetting(
                f"expected target_task_ms above 0 and at most 60000, got {self.target_task_ms!r}; 500 is the default"
            )
        for user, weight in self.weights.items():
            require_weight(weight, require_user(user))
        for user, cap in self.caps.items():
            require_cap(cap, require_user(user))

    def properties(self) -> dict[str, str]:
        """The same as Spark properties, without the jar; empty for ``none``."""
        if self.policy == "none":
            return {}
        written = {
            "spark.plugins": PLUGIN,
            PREFIX + "policy": self.policy,
            PREFIX + "clock": self.clock,
            PREFIX + "weights": _pairs(self.weights),
            PREFIX + "caps": _pairs(self.caps),
            PREFIX + "targetTaskMs": repr(float(self.target_task_ms)),
            PREFIX + "partitioning": str(self.partitioning).lower(),
            PREFIX + "history": str(self.history.absolute()) if self.history is not None else "",
        }
        return {name: value for name, value in written.items() if value}


def configure(
    builder: SparkSession.Builder,
    *,
    policy: str = "uwfq",
    clock: str = "self",
    weights: Mapping[str, float] | None = None,
    caps: Mapping[str, float] | None = None,
    target_task_ms: float = 500.0,
    partitioning: bool = True,
    history: Path | None = None,
) -> SparkSession.Builder:
    """Let the application that ``builder`` will start be ordered by ``policy``; see ``Settings`` for the arguments.

    Jars and plugins that the builder names already stay.

    Raises:
        BadSetting: a value is not what it may be.
        JarMissing: the plugin was not built.
    """
    settings = Settings(
        policy,
        clock,
        weights or {},
        caps or {},
        target_task_ms,
        partitioning,
        Path(history) if history else None,
    )
    properties = settings.properties()
    if not properties:
        return builder
    named: Mapping[str, Any] = getattr(builder, "_options", {})
    for name, ours in (("spark.jars", str(jar())), ("spark.plugins", PLUGIN)):
        others = [part for part in str(named.get(name, "")).split(",") if part and part != ours]
        properties[name] = ",".join([*others, ours])
    for name, value in properties.items():
        builder = builder.config(name, value)
    return builder


def _pairs(values: Mapping[str, float]) -> str:
    return ",".join(f"{user}={float(value)!r}" for user, value in sorted(values.items()))
