"""The process that `test_fuzz` starts: ``python -m tests.storage.fuzzing FOLDER ANSWER SECONDS SEED``.

atheris draws the inputs, seeing which branches of the reader each takes. What an input means is ``hostile``'s.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["headrace.storage"]):
    from headrace.storage import fetch, group
    from headrace.storage.encodings import _jit
    from headrace.storage.reader import read_file

from .hostile import PATCH, Judge, changed, places, seeds


def main(folder: Path, answer: Path, seconds: int, seed: int) -> None:
    """Fuzz, then write down how often the reader said what."""
    # Traced code cannot be compiled: numpy's twins of the kernels read all streams.
    _jit.SMALL_VALUES = fetch.DECODED.enough = group.ENCODED.enough = 1 << 60  # type: ignore[misc]
    files = [(raw, places(raw)) for raw in seeds(folder)]
    path, corpus = folder / "changed", folder / "corpus"
    corpus.mkdir()
    for number, (_, where) in enumerate(files):
        for region in range(len(where)):
            (corpus / f"{number}.{region}").write_bytes(
                bytes([number]) + PATCH.pack(region, 17 * region, 3) + bytes(4)
            )
    judge = Judge()
    until = time.monotonic() + seconds

    def one(data: bytes) -> None:
        if time.monotonic() > until + 30:
            raise TimeoutError("the fuzzer did not stop in time")
        if not data:
            return
        raw, where = files[data[0] % len(files)]
        hostile = changed(raw, where, data[1:])
        if hostile is None:
            return
        path.write_bytes(hostile)
        judge.read(len(hostile), lambda: sum(batch.num_rows for batch in read_file(path)))
        if judge.seen["runs"] % 50 == 0:
            answer.write_text(json.dumps(judge.seen))

    arguments = [sys.argv[0], f"-max_total_time={seconds}", f"-seed={seed}", "-max_len=64", "-verbosity=0"]
    arguments += [f"-artifact_prefix={folder}/", "-rss_limit_mb=0", str(corpus)]
    atheris.Setup(arguments, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
