"""What can be wrong with a contract itself, or with the gate that applies it.

A wrong *event* is never an exception here: it becomes a row of reasons and leaves for the dead-letter topic.
"""

from __future__ import annotations

from headrace.streaming.errors import StreamingError


class BadContract(StreamingError, ValueError):
    """A contract file that cannot be used: it names the file, the key, what was expected and what came.

    >>> str(BadContract("t.toml", "columns[0].type", "one of int8, int16", "'int7'", "correct the spelling"))
    "t.toml: columns[0].type: expected one of int8, int16, got 'int7'; correct the spelling"
    """

    def __init__(self, file: str, key: str, expected: str, got: str, advice: str) -> None:
        super().__init__(file, key, expected, got, advice)
        self.file = file
        self.key = key
        self.expected = expected
        self.got = got
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: expected {self.expected}, got {self.got}; {self.advice}"


class GateBroken(StreamingError, RuntimeError):
    """The independent check of the gate could not be carried out, so nothing is known about the batch."""


class GateDisagreement(StreamingError, RuntimeError):
    """The masks and the independent check judged some rows differently; the batch must not be published."""
