"""The one error base of the streaming room, and the errors that more than one of its modules raises.

Errors that only one module raises are defined beside their cause in that module. Each is also a builtin, so
that callers who know nothing of headrace can still catch it.
"""


class StreamingError(Exception):
    """Base of every error raised by `headrace.streaming`; never raised itself."""


class CorruptMessage(StreamingError, ValueError):
    """Bytes that cannot be what their headers claim; raised before any row of them is returned."""
