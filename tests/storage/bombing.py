"""The process that `test_bombs` starts: ``python -m tests.storage.bombing FOLDER`` reads its bombs under a limit on memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa

LIMIT_BYTES = 512 << 20
BUDGET_BYTES = 64 << 20
"""Of decoded rows: what a caller with so little memory would say."""


def main(folder: Path) -> None:
    """Read every bomb; print what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    from headrace.storage.errors import StorageError
    from headrace.storage.reader import read_file

    said, harm, slowest = Counter[str](), list[str](), 0.0
    names = json.loads((folder / "names.json").read_text())
    for number, name in enumerate(names):
        started = time.perf_counter()
        try:
            rows = sum(
                batch.num_rows for batch in read_file(folder / f"{number}.bomb", memory_bytes=BUDGET_BYTES)
            )
        except StorageError as error:
            said[type(error).__name__] += 1
        except (MemoryError, pa.ArrowException, ArithmeticError, LookupError, TypeError, ValueError) as error:
            harm.append(f"{name}: {error!r}")
        else:
            harm.append(f"{name}: {rows} rows were read")
        slowest = max(slowest, time.perf_counter() - started)
    found = {
        "n": len(names),
        "said": said,
        "not refused": harm,
        "slowest": slowest,
        "numba": "numba" in sys.modules,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
