"""Adam for the network's dense weights: one kernel call a parameter, and moments that a checkpoint can name.

In the flow: beside `table.step`, which does the same for rows. Kingma and Ba, ICLR 2015, algorithm 1. torch's own optimisers are the same
sums; importing them brings torch's compiler with it, seconds and megabytes that an executor has no use for.
"""

from typing import Any, Final

import numpy as np
from torch import nn

from headrace.streaming.learners.adapt_dhm import kernels

BETAS: Final = (0.9, 0.999)


class Adam:
    """Moments of named parameters; `times`: by how much each one's rate is raised.

    Attributes:
        state: for each name first and second moment, float32[n], and steps, int64[1].
    """

    def __init__(self, parameters: dict[str, nn.Parameter], times: dict[str, float]) -> None:
        self._parameters, self._times = parameters, times
        self.state: dict[str, tuple[Any, Any, Any]] = {
            name: (
                np.zeros(parameter.numel(), np.float32),
                np.zeros(parameter.numel(), np.float32),
                np.zeros(1, np.int64),
            )
            for name, parameter in parameters.items()
        }

    def step(self, lr: float) -> None:
        """Move every parameter that has a gradient, which is dropped."""
        rates = {times: np.array([lr * times, *BETAS]) for times in {1.0, *self._times.values()}}
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                flat, gradient = parameter.detach().numpy().reshape(-1), parameter.grad.numpy().reshape(-1)
                kernels.dense_step(flat, gradient, *self.state[name], rates[self._times.get(name, 1.0)])
                parameter.grad = None
