"""What a person types first, and what they read when it does not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from headrace import scheduler
from headrace.scheduler import BadSetting, JarMissing, Settings, build, settings
from headrace.scheduler.control import partitions


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"policy": "fairest"}, "'fairest'"),
        ({"clock": "sun"}, "'sun'"),
        ({"weights": {"ann": -1.0}}, "above 0 for user 'ann', got -1.0"),
        ({"weights": {"ann": 0}}, "above 0 for user 'ann', got 0"),
        ({"weights": {"ann": math.nan}}, "got nan"),
        ({"weights": {"ann": math.inf}}, "got inf"),
        ({"weights": {"ann": True}}, "got True"),
        ({"caps": {"ann": 1.2}}, "at most 1 for user 'ann', got 1.2"),
        ({"caps": {"ann": 0.0}}, "got 0.0"),
        ({"weights": {"a,b": 1.0}}, "'a,b'"),
        ({"target_task_ms": 0}, "got 0"),
    ],
)
def test_a_misfit_is_named_with_what_to_do(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSetting) as caught:
        scheduler.configure(SparkSession.Builder(), **arguments)
    assert said in str(caught.value)
    assert "expected" in str(caught.value)


def test_configure_keeps_what_the_builder_has() -> None:
    builder = SparkSession.Builder().config("spark.jars", "other.jar").config("spark.plugins", "their.Plugin")
    options = scheduler.configure(builder, weights={"ann": 2}, caps={"bob": 0.5})._options
    assert options["spark.jars"] == f"other.jar,{scheduler.jar()}"
    assert options["spark.plugins"] == "their.Plugin,headrace.scheduler.Plugin"
    assert options["spark.headrace.scheduler.weights"] == "ann=2.0"
    assert options["spark.headrace.scheduler.caps"] == "bob=0.5"
    again = scheduler.configure(builder)._options
    assert again["spark.plugins"] == options["spark.plugins"], "twice is once"


def test_policy_none_changes_nothing() -> None:
    assert scheduler.configure(SparkSession.Builder(), policy="none")._options == {}


def test_without_a_jar_the_command_that_builds_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "JAR", tmp_path / "absent.jar")
    with pytest.raises(JarMissing, match=r"python -m headrace\.scheduler\.build"):
        scheduler.configure(SparkSession.Builder())
    assert issubclass(JarMissing, FileNotFoundError)


def test_the_jar_is_what_its_sources_say(tmp_path: Path) -> None:
    """Built anew from the sources beside it, it has the same bytes."""
    spark = build.spark_jars()
    assert spark is not None
    build.build(spark, tmp_path / "again.jar")
    assert (tmp_path / "again.jar").read_bytes() == scheduler.jar().read_bytes()


def test_sources_that_do_not_compile_leave_the_old_jar(tmp_path: Path) -> None:
    (tmp_path / "Broken.java").write_text("class Broken {")
    spark = build.spark_jars()
    assert spark is not None
    (tmp_path / "old.jar").write_bytes(b"old")
    with pytest.raises(RuntimeError, match=r"Broken\.java"):
        build.build(spark, tmp_path / "old.jar", tmp_path)
    assert (tmp_path / "old.jar").read_bytes() == b"old"


def test_settings_for_a_conf_file_are_complete() -> None:
    written = Settings(weights={"b": 1.0, "a": 0.5}, history=Path("costs.json")).properties()
    assert written["spark.plugins"] == "headrace.scheduler.Plugin"
    assert written["spark.headrace.scheduler.weights"] == "a=0.5,b=1.0"
    assert Path(written["spark.headrace.scheduler.history"]).is_absolute()
    assert Settings(policy="none").properties() == {}


@pytest.mark.parametrize(
    ("cost_us", "target_us", "overhead_us", "cores", "expected"),
    [
        (10e6, 500e3, 1e3, 2, 20),
        (0.4e6, 500e3, 1e3, 8, 1),  # shorter than one task should be
        (0.6e6, 500e3, 1e3, 8, 8),  # longer: at least one for each core
        (0.6e6, 500e3, 20e3, 8, 3),  # but launching may take a tenth at most
        (10e6, 500e3, 0.0, 2, 20),
    ],
)
def test_partitions_by_target_cores_and_overhead(
    cost_us: float, target_us: float, overhead_us: float, cores: int, expected: int
) -> None:
    assert partitions(cost_us, target_us, overhead_us, cores) == expected
