"""Builds the scheduler's jar before packaging, where the environment has pyspark and a JDK; everything else is in pyproject.toml."""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithJar(build_py):
    """``build_py`` that compiles the jar first, so that it is package data like any other."""

    def run(self) -> None:
        """Under build isolation there is no pyspark, and the distribution is whole without a jar (`JarMissing` says so)."""
        scheduler = runpy.run_path(str(Path(__file__).parent / "scheduler" / "build.py"))
        spark = scheduler["spark_jars"]()
        if spark is not None and shutil.which("javac") and scheduler["is_stale"]():
            scheduler["build"](spark)
        self.__dict__.pop("data_files", None)  # listed before the jar was there
        super().run()


setup(cmdclass={"build_py": BuildWithJar})
