"""What goes wrong between values and bytes: one base, and each error is also a builtin.

`CorruptStream` is about bytes that were read, the other two about a caller's arguments. Where in a file the stream
lies (page, column) is not known here; the reader adds it.
"""


class EncodingError(Exception):
    """Base of every error raised by `headrace.storage.encodings`."""


class CorruptStream(EncodingError, ValueError):
    """The payload is not one that this encoding writes for the values asked for."""


class UnsupportedArray(EncodingError, TypeError):
    """An array of a shape, dtype or layout that streams do not have."""


class CannotEncode(EncodingError, ValueError):
    """The encoding has no bytes for these values; `can_encode` says so beforehand."""


class CannotErase(EncodingError, ValueError):
    """Single values of this stream cannot be overwritten where they lie."""
