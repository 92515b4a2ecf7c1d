"""Kernels of learning to rank: one interaction after the other, over a dense scratch of the batch's rows.

In the flow: between `EmbeddingStore.gather` and `scatter`. For an interaction of user u with item i and K sampled items j, scores
are dot products over the blocks that both rows have. K = 1: Bayesian personalised ranking (Rendle et al., UAI 2009, eq. 4 of the update);
K > 1: softmax cross-entropy over the K + 1 items. Each step is row-wise Adagrad: one rate a row, from the sum of its mean squared gradients.

A row with no block (an id without a row of its own) reads as zeros and is never changed.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.streaming.learners.embedding.index import mix
from headrace.streaming.learners.embedding.seen import is_met
from headrace.streaming.learners.ihomer.jit import kernel


class Scratch(NamedTuple):
    """The rows of a batch, m of them. width: weights of each row, its blocks times 8."""

    weights: npt.NDArray[np.float32]  # [m, D]
    width: npt.NDArray[np.int64]  # [m]
    square: npt.NDArray[np.float32]  # [m]
    gain: npt.NDArray[np.float32]  # [m]


@kernel
def step(weights: Any, square: Any, row: Any, gradient: Any, wide: Any, rate: Any) -> None:
    """Row-wise Adagrad: `gradient: float32[D]`, of which the first `wide` count."""
    total = np.float32(0.0)
    for lane in range(wide):
        total += gradient[lane] * gradient[lane]
    square[row] += total / np.float32(wide)
    scaled = rate / np.sqrt(square[row] + np.float32(1e-8))
    for lane in range(wide):
        weights[row, lane] -= scaled * gradient[lane]


@kernel
def learn(scratch: Any, users: Any, items: Any, labels: Any, losses: Any, rates: Any) -> None:
    """Learn `users: int64[n]` with `items: int64[n, 1 + K]` (places in the scratch, the positive first) in order, in place.

    labels: uint8[n]; where 0, the first item was shown and not wanted: a logistic step on that pair alone.
    losses: float32[n], each interaction's loss before its step. rates: float32[2], learning rate and L2 penalty.
    """
    weights, width, square, gain = scratch.weights, scratch.width, scratch.square, scratch.gain
    rate, penalty = rates[0], rates[1]
    many = items.shape[1]
    scores = np.zeros(many, np.float32)
    pull = np.zeros(weights.shape[1], np.float32)
    gradient = np.zeros(weights.shape[1], np.float32)
    for at in range(users.shape[0]):
        user = users[at]
        wide = width[user]
        used = many if labels[at] else 1
        for place in range(used):
            item = items[at, place]
            total = np.float32(0.0)
            for lane in range(min(wide, width[item])):
                total += weights[user, lane] * weights[item, lane]
            scores[place] = total
        # From here on `scores` holds the derivative of the loss by each score.
        if used == 1:
            z = scores[0] if labels[at] else -scores[0]
            losses[at] = np.log1p(np.exp(-abs(z))) + max(-z, np.float32(0.0))
            c = np.float32(1.0) / (np.float32(1.0) + np.exp(z))
            scores[0] = -c if labels[at] else c
        else:
            most = scores[0]
            for place in range(1, used):
                most = max(most, scores[place])
            losses[at] = most - scores[0]
            total = np.float32(0.0)
            for place in range(used):
                scores[place] = np.exp(scores[place] - most)
                total += scores[place]
            losses[at] += np.log(total)
            for place in range(used):
                scores[place] /= total
            scores[0] -= np.float32(1.0)
        for lane in range(wide):
            pull[lane] = np.float32(0.0)
        for place in range(used):
            item = items[at, place]
            both = min(wide, width[item])
            force = abs(scores[place])
            # What the next block of the narrower row would have felt from the wider one's.
            if width[item] < wide:
                gain[item] += force * block_norm(weights, user, width[item])
            elif wide < width[item]:
                gain[user] += force * block_norm(weights, item, wide)
            else:
                gain[item] += force * np.float32(0.1)
                gain[user] += force * np.float32(0.1)
            for lane in range(both):
                pull[lane] += scores[place] * weights[item, lane]
            for lane in range(width[item]):
                gradient[lane] = penalty * weights[item, lane]
            for lane in range(both):
                gradient[lane] += scores[place] * weights[user, lane]
            if width[item] > 0:
                step(weights, square, item, gradient, width[item], rate)
        for lane in range(wide):
            pull[lane] += penalty * weights[user, lane]
        if wide > 0:
            step(weights, square, user, pull, wide, rate)


@kernel
def block_norm(weights: Any, row: Any, start: Any) -> Any:
    """The norm of a row's block of 8 from `start` on."""
    total = np.float32(0.0)
    for lane in range(start, start + 8):
        total += weights[row, lane] * weights[row, lane]
    return np.sqrt(total)


@kernel
def draw_negatives(pool: Any, users: Any, seen: Any, generations: Any, random: Any, drawn: Any) -> None:
    """drawn: uint32[n, K], rows from `pool: uint32[p]` that `users: uint32[n]` are not remembered to have met.

    random: uint64[1], the state of SplitMix64, moved on. After four tries a pair that has met is taken: a user may know everything.
    """
    state = random[0]
    for at in range(drawn.shape[0]):
        for place in range(drawn.shape[1]):
            for _ in range(4):
                state += np.uint64(0x9E3779B97F4A7C15)
                z = np.uint64(mix(state))
                chosen = pool[np.int64((z >> np.uint64(32)) * np.uint64(pool.shape[0]) >> np.uint64(32))]
                drawn[at, place] = chosen
                if seen.shape[0] == 0 or users[at] == 0 or not is_met(seen, users[at], chosen, generations):
                    break
    random[0] = state
