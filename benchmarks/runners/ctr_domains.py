"""How fast a click model learns with 3, 12 and 100 domains: one pass each, in turns, so that a slow minute is every number's."""

from __future__ import annotations

import torch

from benchmarks.data.latent import clicks
from benchmarks.runners.ctr import single_pass
from benchmarks.runners.protocol import Args, Result, Runner, serve


class Domains(Runner):
    """One pass over a world of each number of domains."""

    def __init__(self, args: Args) -> None:
        torch.set_num_threads(1)
        self._args = args
        self._worlds = {
            domains: clicks(args["rows"], args["world_seed"], args["world"], domains)
            for domains in args["domains"]
        }

    def run(self) -> Result:
        return Result(
            {str(domains): single_pass(world, self._args)[1] for domains, world in self._worlds.items()}
        )


if __name__ == "__main__":
    serve(Domains)
