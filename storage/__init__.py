"""The column store: encoded, checksummed files and the versioned tables made of them.

Files are described byte by byte in ``FORMAT.md``; a table is a folder of such files and one manifest per commit.
This room knows neither Kafka nor learners: what a commit carries beside rows is opaque bytes. Spark meets it only in
``storage.spark``, which is imported on demand.

Importing this package imports nothing else: the first use of a name does, and readers never load what writers need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.storage.beginning import create, write
    from headrace.storage.errors import StorageError
    from headrace.storage.manifest import Commit, DataFile
    from headrace.storage.opening import open
    from headrace.storage.parting import Retention
    from headrace.storage.reader import read_file
    from headrace.storage.scan import Scan
    from headrace.storage.table import Table

__all__ = [
    "Commit",
    "DataFile",
    "Retention",
    "Scan",
    "StorageError",
    "Table",
    "create",
    "open",
    "read_file",
    "write",
]

_MODULES = {
    "Commit": "manifest",
    "DataFile": "manifest",
    "Retention": "parting",
    "Scan": "scan",
    "StorageError": "errors",
    "Table": "table",
    "create": "beginning",
    "open": "opening",
    "read_file": "reader",
    "write": "beginning",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
