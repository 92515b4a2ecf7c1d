"""The one error base of the streaming room, and the errors that more than one of its modules raises.

Errors that only one module raises are defined beside their cause in that module. Each is also a builtin, so
that callers who know nothing of headrace can still catch it.
"""


class StreamingError(Exception):
    """Base of every error raised by `headrace.streaming`; never raised itself."""


class BrokerUnreachable(StreamingError, ConnectionError):
    """No Kafka answers at the bootstrap address."""


class TopicMissing(StreamingError, LookupError):
    """The topic does not exist; nothing creates one by mistake."""


class TopicRefused(StreamingError, ValueError):
    """Kafka does not create a topic of that name or with those settings."""
