"""DSL as its authors coded it: a mask over dense tables, pruned by magnitude and grown by gradient at a constant budget.

The reference mode, for comparison: Wang et al., "Dynamic sparse learning", WSDM 2024 (arXiv 2402.02855), after the authors' public
program. Weights, gradients and Adam's moments all stay dense: nothing becomes smaller or faster. What is pruned and grown again in
one exploration keeps its value; other grown weights begin at 0 with whatever moments had gathered there.

`grow="random"` is SET (Mocanu et al., 2018), `grow=None` a static random mask; `begin="magnitude"` on a trained table, without growth, is plain magnitude pruning.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from headrace.streaming.learners.dynamic_sparse.schedule import cosine


@dataclass
class MaskedTables:
    """The masks of some parameters, each with its own constant budget.

    density: share of live entries. every: steps between explorations. total: steps of the whole training, over which the
    share that moves falls from `start` to `least` along a cosine.
    """

    parameters: list[torch.nn.Parameter]
    density: float
    every: int
    total: int
    seed: int = 0
    start: float = 0.5
    least: float = 0.005
    grow: Literal["gradient", "random"] | None = "gradient"
    begin: Literal["random", "magnitude"] = "random"
    masks: list[torch.Tensor] = field(init=False)
    steps: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._random = torch.Generator().manual_seed(self.seed)
        self.masks = []
        for parameter in self.parameters:
            # Exactly so many, where the authors' coin flips are right on average.
            n = self._budget(parameter)
            if self.begin == "magnitude":
                chosen = parameter.detach().abs().flatten().topk(n).indices
            else:
                chosen = torch.randperm(parameter.numel(), generator=self._random)[:n]
            mask = torch.zeros(parameter.numel(), dtype=torch.bool)
            mask[chosen] = True
            self.masks.append(mask.reshape(parameter.shape))
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Set the entries that are off to 0."""
        for parameter, mask in zip(self.parameters, self.masks, strict=True):
            parameter.mul_(mask)

    @property
    def share(self) -> float:
        """Of the live entries, how many the next exploration moves."""
        at = min(self.steps, self.total) / self.total
        return cosine(self.start, self.least, at)

    def after_step(self) -> bool:
        """Call after each step of the optimiser, before gradients are cleared; whether there was an exploration."""
        self.steps += 1
        self.apply()
        if self.grow is None or self.steps % self.every:
            return False
        for at, parameter in enumerate(self.parameters):
            self.masks[at] = self._explored(parameter, self.masks[at])
        self.apply()
        return True

    def _budget(self, parameter: Any) -> int:
        return int(self.density * int(parameter.numel()) + 0.5)

    def _explored(self, parameter: Any, mask: torch.Tensor) -> torch.Tensor:
        n = int(mask.sum())
        moved = math.ceil(self.share * n)
        magnitude = torch.where(mask, parameter.detach().abs(), torch.inf).flatten()
        after = mask.flatten().clone()
        after[magnitude.topk(moved, largest=False).indices] = False
        if self.grow == "random":
            worth = torch.rand(len(after), generator=self._random)
        else:
            worth = parameter.grad.abs().flatten()
        # All that are off compete, those just pruned too.
        grown = torch.where(after, -torch.inf, worth).topk(moved).indices
        after[grown] = True
        return after.reshape(mask.shape)
