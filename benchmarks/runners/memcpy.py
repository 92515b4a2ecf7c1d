"""What the kernels are measured against: numpy copying as many bytes as they write."""

from __future__ import annotations

import numpy as np

from benchmarks.runners.protocol import Args, Result, Runner, quickest, serve


class Memcpy(Runner):
    """Seconds of the quickest copy, measured once for each kernel."""

    def __init__(self, args: Args) -> None:
        self._args = args
        self._from = np.random.default_rng(args["seed"]).integers(0, 1 << 62, args["out_bytes"] // 8)
        self._to = np.empty_like(self._from)

    def run(self) -> Result:
        def copy() -> None:
            np.copyto(self._to, self._from)

        return Result({name: quickest(copy, self._args["calls"]) for name in self._args["kernels"]})


if __name__ == "__main__":
    serve(Memcpy)
