"""Where headrace keeps its things on one machine: all under ``.headrace/`` of the current folder, jars in a per-user cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from headrace.streaming import jars
from headrace.streaming.java import Java, find

ROOT = Path(".headrace")
"""Everything that is written on this machine by default, but for the jars."""


def cache() -> Path:
    """The per-user folder of jars; ``HEADRACE_CACHE`` names another."""
    return jars.cache_folder(os.environ)


def java() -> Java:
    """The JDK in use: ``JAVA_HOME``, else the path."""
    return find(os.environ.get("JAVA_HOME"), os.environ.get("PATH"))


def fetch_jars() -> Sequence[Path]:
    """All jars, fetched now where the cache lacks them; the connector's paths."""
    folder = cache()
    jars.resolve(folder, java=java().path, repository=os.environ.get("HEADRACE_REPOSITORY"))
    return jars.connector_jars(folder)
