"""Errors of the jobs room; each is also a builtin, and its message says what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class JobError(Exception):
    """Base of everything the jobs room raises on purpose."""


class BadSettings(JobError, ValueError):
    """The settings file or an override does not fit the model."""


class ConnectorMissing(JobError, FileNotFoundError):
    """Spark runs without the Kafka connector's jars."""


class CheckpointLost(JobError, RuntimeError):
    """The table was written by another query than the checkpoint belongs to."""


class Overtaken(JobError, RuntimeError):
    """Another driver of the query committed after this one had read where to go on."""


class ContractChanged(JobError, RuntimeError):
    """The table's columns are not the ones this contract writes."""


class LearnerChanged(JobError, RuntimeError):
    """The settings or the contract describe another learner than the one the table has a snapshot of."""


class BadConversion(JobError, ValueError):
    """A file cannot be read as what its name says, or not be written where it was asked for."""


class PackFailed(JobError, RuntimeError):
    """The environment for executors cannot be packed."""


@contextmanager
def torch_for(learner: str) -> Iterator[None]:
    """Turn a package that is missing on import into what to install.

    Raises:
        BadSettings: torch, or what comes with it, is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise BadSettings(
            f"{learner} needs {error.name}, which is not installed: pip install 'headrace[stream,torch]', on every node"
        ) from None
