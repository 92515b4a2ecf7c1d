"""Errors of the scheduler room; each is also a builtin, and its message says what to do next."""

from __future__ import annotations


class SchedulerError(Exception):
    """Base of everything the scheduler room raises on purpose."""


class BadSetting(SchedulerError, ValueError):
    """A weight, cap, policy or other setting is outside what it may be."""


class JarMissing(SchedulerError, FileNotFoundError):
    """The plugin's jar was not built, because no Spark was at hand when headrace was installed."""


class NotInstalled(SchedulerError, RuntimeError):
    """The Spark application runs without the plugin, so there is nothing to ask it."""
