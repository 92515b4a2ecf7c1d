"""The scheduler: many users' jobs in one Spark application, ordered by user-weighted fair queuing.

    builder = scheduler.configure(SparkSession.builder, weights={"pipeline": 3.0}, caps={"backfill": 0.5})
    spark = builder.getOrCreate()
    with scheduler.run_as(spark, "ann", job_class="daily report"):
        spark.sql("…").show()

In the flow: ``configure`` names a plugin that the JVM loads with the application (``jvm/``); everything else asks it or tells
it something. Source: arXiv 2510.15485, with weights, caps and a clock that does not trust estimates. Importing this package
starts nothing.
"""

from headrace.scheduler.control import plan_partitions, set_cap, set_weight, snapshot, why
from headrace.scheduler.errors import BadSetting, JarMissing, NotInstalled, SchedulerError
from headrace.scheduler.identity import carry, run_as
from headrace.scheduler.settings import POLICIES, Settings, configure, jar

__all__ = [
    "POLICIES",
    "BadSetting",
    "JarMissing",
    "NotInstalled",
    "SchedulerError",
    "Settings",
    "carry",
    "configure",
    "jar",
    "plan_partitions",
    "run_as",
    "set_cap",
    "set_weight",
    "snapshot",
    "why",
]
