"""The column store: encoded, checksummed files and the versioned tables made of them.

Files are described byte by byte in ``FORMAT.md``; a table is a folder of such files and one manifest per commit.
This room knows neither Kafka nor learners: what a commit carries beside rows is opaque bytes. Spark meets it only in
``storage.spark``, which is imported on demand.
"""

from headrace.storage.create import create, write
from headrace.storage.errors import StorageError
from headrace.storage.manifest import Commit, DataFile
from headrace.storage.reader import read_file
from headrace.storage.scan import Scan
from headrace.storage.table import Table, open

__all__ = ["Commit", "DataFile", "Scan", "StorageError", "Table", "create", "open", "read_file", "write"]
