"""Should a cluster of labels be two? Pivots, sides, and three tests to choose from.

All tests see the Jaccard distances d = 1 - J of a cluster's labels and the sample m of each (rows where either label is set):

- `share` (the default): the share of co-occurrences that two sides keep, minus what sides of their weight would keep by chance
  (as in modularity: Newman and Girvan, Phys. Rev. E 2004), must exceed sqrt(ln(1/delta) / 2m), m co-occurrences. Those are not
  independent of each other, so the bound is nominal. It is the only test that fires on labels that exclude each other.
- `gain`: the mean distance must fall by more than its bound when the sides are taken apart.
- `odac`: Rodrigues, Gama and Pedroso, TKDE 2008, section 4: (d1 - d2 > eps or eps < tau) and (d1 - d0) |d1 + d0 - 2 avg| > eps,
  with the average taken over pairs. (River's and the published iHOMER code divide that sum by the number of observations.)

Sides grow from the two labels that are farthest apart, by average linkage.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

SplitTest = Literal["share", "gain", "odac"]
TIE: Final = 0.02
"""Distances within this much of the largest are taken for equal; the more frequent pair is the pivot."""
ROUNDS: Final = 4


@dataclass(frozen=True)
class Rules:
    """How readily clusters are split; see `LabelODAC` for the meaning of each."""

    delta: float
    tau: float
    split_test: SplitTest
    min_pair: int


@dataclass(frozen=True)
class Split:
    """Two sides of a cluster, as places in it, by how much they are better than one, and the bound on that."""

    left: Any
    right: Any
    gain: float
    eps: float
    accepted: bool


def distances(n: Any, together: Any) -> tuple[Any, Any]:
    """Jaccard distances and their samples, float64[m, m] each, of `n: float64[m]` and `together: float64[m, m]`."""
    union = n[:, None] + n[None, :]
    union -= together  # in place, here and below: a thousand labels make matrices of 8 MB
    d = jaccard(together, union)
    np.subtract(1.0, d, out=d)
    np.fill_diagonal(d, 0.0)
    return d, union


def jaccard(together: Any, union: Any) -> Any:
    """Jaccard similarities of labels that came `together` so often, either of them `union` times; 0 for those that never came."""
    return np.divide(together, union, out=np.zeros_like(union), where=union > 1e-9)


def bound(delta: float, sample: float) -> float:
    """Hoeffding's: how far a mean of `sample` values in [0, 1] may stray, but with probability delta."""
    return math.sqrt(math.log(1.0 / delta) / (2.0 * max(sample, 1.0)))


def share(together: Any, left: Any, right: Any, delta: float) -> tuple[float, float]:
    """By how much two sides keep more of their co-occurrences than by chance, and the bound on it."""
    within = tuple(float(together[np.ix_(side, side)].sum()) for side in (left, right))
    return share_of(within, float(together[np.ix_(left, right)].sum()), delta)


def share_of(within: tuple[float, ...], across: float, delta: float) -> tuple[float, float]:
    """`share` by the sums of `together` within each side (each pair counts twice) and across the two (once)."""
    total = sum(within) / 2.0 + across
    if total <= 0.0:
        return 0.0, 1.0
    kept = sum(inner / 2.0 / total for inner in within)
    chance = sum(((inner + across) / (2.0 * total)) ** 2 for inner in within)
    return kept - chance, bound(delta, total)


def split(n: Any, together: Any, smallest: int, rules: Rules) -> Split | None:
    """The best two sides of a cluster of labels with counts `n` and `together`; None where it cannot be cut."""
    size = len(n)
    if size < 2 * smallest or size < 2:
        return None
    d, sample = distances(n, together)
    pivots = _pivots(d, sample, n, rules.min_pair)
    if pivots is None:
        return None
    if rules.split_test == "share":
        del sample  # the test needs it no more, and it is as large as all counts
        left, right = _sides(d, n, pivots, smallest)
        gain, eps = share(together, left, right, rules.delta)
        return Split(left, right, gain, eps, gain > eps)
    left, right = _sides(d, n, pivots, smallest)
    if rules.split_test == "gain":
        gain, eps = _gain(d, sample, left, right, rules)
        return Split(left, right, gain, eps, gain > eps)
    gain, eps, accepted = _odac(d, sample, pivots, rules)
    return Split(left, right, gain, eps, accepted)


def joins(n: Any, together: Any, left: Any, right: Any, then: tuple[float, float], rules: Rules) -> bool:
    """Whether two sides should be one again: what their split gained `then` (gain, eps) is gone by more than the bounds.

    By `share` and `gain`, it would not be split now, and has lost more than either bound; by `odac`, a side's diameter has come to
    exceed the one that the whole had.
    """
    gain_then, eps_then = then
    if rules.split_test == "odac":
        d, sample = distances(n, together)
        for side in (left, right):
            pairs = _pairs(d, sample, side, rules.min_pair)
            if len(pairs):
                at = np.unravel_index(int(np.argmax(d[np.ix_(side, side)])), (len(side), len(side)))
                eps = bound(rules.delta / len(pairs), float(sample[np.ix_(side, side)][at]))
                if float(pairs.max()) - gain_then > max(eps, eps_then):
                    return True
        return False
    if rules.split_test == "share":
        return is_gone(share(together, left, right, rules.delta), then)
    return is_gone(_gain(*distances(n, together), left, right, rules), then)


def is_gone(now: tuple[float, float], then: tuple[float, float]) -> bool:
    """Whether a split that gained `then` (gain, eps) would not be made `now`, and has lost more than either bound."""
    return now[0] < now[1] and then[0] - now[0] > max(now[1], then[1])


def _pivots(d: Any, sample: Any, n: Any, min_pair: int) -> tuple[int, int] | None:
    known = np.triu(sample >= min_pair, 1)
    known &= (n > 0.0)[:, None] & (n > 0.0)[None, :]
    if not known.any():
        return None
    known &= d >= np.max(d, where=known, initial=-1.0) - TIE
    i, j = np.nonzero(known)
    best = int(np.argmax(np.minimum(n[i], n[j])))
    return int(i[best]), int(j[best])


def _sides(d: Any, n: Any, pivots: tuple[int, int], smallest: int) -> tuple[Any, Any]:
    side = _grow(d, n, pivots, smallest)
    return np.flatnonzero(side == 0), np.flatnonzero(side == 1)


def _grow(d: Any, n: Any, pivots: tuple[int, int], smallest: int) -> Any:
    """0 or 1 for each label: average linkage to the two sides, which begin as the pivots."""
    p, q = pivots
    side = np.where(d[:, p] <= d[:, q], 0, 1)
    side[p], side[q] = 0, 1
    for _ in range(ROUNDS):
        means = np.stack([_mean_to(d, side == s) for s in (0, 1)])
        fewer = int((side == 1).sum() < (side == 0).sum())
        fresh = np.where(means[0] < means[1], 0, 1)
        fresh[(np.abs(means[0] - means[1]) < 1e-12) | (n <= 0.0)] = fewer
        fresh[p], fresh[q] = 0, 1
        if (fresh == side).all():
            break
        side = fresh
    for s in (0, 1):
        lack = smallest - int((side == s).sum())
        if lack > 0:  # the labels nearest to this side come over, so that no side is too small to learn from
            others = np.flatnonzero((side != s) & (np.arange(len(n)) != (q, p)[s]))
            order = np.argsort(_mean_to(d, side == s)[others], kind="stable")
            side[others[order[:lack]]] = s
    return side


def _mean_to(d: Any, members: Any) -> Any:
    """The mean distance of each label to the members other than itself."""
    count = members.sum() - members.astype(np.int64)
    total = d[:, members].sum(1)
    return np.divide(total, count, out=np.ones(len(d)), where=count > 0)


def _pairs(d: Any, sample: Any, members: Any, min_pair: int) -> Any:
    inner = np.ix_(members, members)
    upper = np.triu_indices(len(members), 1)
    return d[inner][upper][sample[inner][upper] >= min_pair]


def _gain(d: Any, sample: Any, left: Any, right: Any, rules: Rules) -> tuple[float, float]:
    everyone = np.arange(len(d))
    whole = _pairs(d, sample, everyone, rules.min_pair)
    within = np.concatenate([_pairs(d, sample, side, rules.min_pair) for side in (left, right)])
    if not len(whole) or not len(within):
        return 0.0, 1.0
    upper = sample[np.triu_indices(len(d), 1)]
    eps = bound(rules.delta / len(whole), float(upper[upper >= rules.min_pair].min()))
    return float(whole.mean() - within.mean()), eps


def _odac(d: Any, sample: Any, pivots: tuple[int, int], rules: Rules) -> tuple[float, float, bool]:
    pairs = np.sort(_pairs(d, sample, np.arange(len(d)), rules.min_pair))
    eps = bound(rules.delta / len(pairs), float(sample[pivots]))
    d1, d0, average = float(pairs[-1]), float(pairs[0]), float(pairs.mean())
    d2 = float(pairs[-2]) if len(pairs) > 1 else 0.0
    apart = (d1 - d0) * abs(d1 + d0 - 2.0 * average)
    return d1, eps, (d1 - d2 > eps or eps < rules.tau) and apart > eps
