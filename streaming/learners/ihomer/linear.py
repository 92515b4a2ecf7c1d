"""The linear block: one logistic regression per label, all labels at once, with diagonal AdaGrad and three persistence features.

In the flow: every estimate of `p(label | x)` in this folder is such a block. For a scaled row x and label l

    z_l = b_l + sum_i W_il x_i + sum_k V_kl f_kl,   p_l = sigmoid(z_l),   g_l = p_l - y_l

and each parameter t takes the step t -= rate * g / sqrt(G_t) after G_t += g^2 (Duchi, Hazan and Singer, JMLR 2011). The
persistence features f_l are the label's last value and its exponentially weighted means with rates 0.3 and 0.03: on a stream
that is sorted or bursty they carry most of what is to be known, on a shuffled one their weights stay near zero.

Arrays are float32, parameters are stored [feature][label] so that the inner loops run over labels. Deliberately absent:
scaling (`scaling`), deciding (`thresholds`), new labels and features (`growth`).
"""

import math
from typing import Any, Final, NamedTuple

import numpy as np

from headrace.streaming.learners.ihomer.jit import kernel

N_PERSIST: Final = 3
SLOW, FAST = np.float32(0.03), np.float32(0.3)
OWN_RATE = np.float32(0.3)
"""Learning rate of biases and persistence weights."""
BIAS_START: Final = -2.0
SQUARES_START: Final = 0.1
UNKNOWN: Final = 2
"""A label's value in a row that does not say whether it is set; nothing is learnt of it there."""


class Block(NamedTuple):
    """Parameters and their summed squared gradients: w, gw float32[D, L]; b, gb float32[L]; v, gv float32[3, L]."""

    w: Any
    gw: Any
    b: Any
    gb: Any
    v: Any
    gv: Any


def new_block(features: int, labels: int) -> Block:
    """A block that has learnt nothing."""
    return Block(
        np.zeros((features, labels), np.float32),
        np.full((features, labels), SQUARES_START, np.float32),
        np.full(labels, BIAS_START, np.float32),
        np.full(labels, SQUARES_START, np.float32),
        np.zeros((N_PERSIST, labels), np.float32),
        np.full((N_PERSIST, labels), SQUARES_START, np.float32),
    )


@kernel
def forward(block: Any, index: Any, value: Any, persist: Any, z: Any) -> None:
    """Fill `z: float32[n]` with the logits of the first n labels for one row: index int32[m], value float32[m]."""
    n = len(z)
    for label in range(n):
        z[label] = block.b[label]
    for k in range(len(persist)):
        for label in range(n):
            z[label] += block.v[k, label] * persist[k, label]
    for at in range(len(index)):
        x = value[at]
        row = block.w[index[at]]
        for label in range(n):
            z[label] += row[label] * x


@kernel
def surprise(z: Any, y: Any, g: Any) -> None:
    """Fill `g: float32[n]` with sigmoid(z) - y, 0 where y is unknown."""
    for label in range(len(z)):
        p = np.float32(1.0) / (np.float32(1.0) + np.float32(math.exp(-z[label])))
        g[label] = p - np.float32(y[label])
        if y[label] == UNKNOWN:
            g[label] = 0.0


@kernel
def step(block: Any, index: Any, value: Any, persist: Any, g: Any, rate: Any) -> None:
    """One AdaGrad step of the first n labels along `g: float32[n]`, in place."""
    n = len(g)
    for label in range(n):
        block.gb[label] += g[label] * g[label]
        block.b[label] -= OWN_RATE * g[label] / np.float32(math.sqrt(block.gb[label]))
    for k in range(len(persist)):
        for label in range(n):
            d = g[label] * persist[k, label]
            block.gv[k, label] += d * d
            block.v[k, label] -= OWN_RATE * d / np.float32(math.sqrt(block.gv[k, label]))
    for at in range(len(index)):
        x = value[at]
        row, squares = block.w[index[at]], block.gw[index[at]]
        for label in range(n):
            d = g[label] * x
            squares[label] += d * d
            row[label] -= rate * d / np.float32(math.sqrt(squares[label]))


@kernel
def remember(persist: Any, y: Any) -> None:
    """Move the persistence features `float32[3, n]`, if there are any, on by one row; what is unknown stays as it was."""
    if len(persist) == 0:
        return
    for label in range(len(y)):
        if y[label] != UNKNOWN:
            value = np.float32(y[label])
            persist[0, label] = value
            persist[1, label] += FAST * (value - persist[1, label])
            persist[2, label] += SLOW * (value - persist[2, label])
