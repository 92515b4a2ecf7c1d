"""Made click worlds of many domains: how somebody clicks depends on a hidden state of the moment, which the domain does not tell.

Twelve domains of unequal size, each a Dirichlet mix of user segments. One of four hidden states rules a view; a state turns the taste
of users against the kinds of items in its own way. ``base``: the state is the largest of four sums of scores of segment, hour and device.
``drift``: from the middle on every state turns tastes another way. ``null``: there is a single state. ``crossed``: the state is
looked up in a table of (segment, hour, device), so that no sum of scores finds it. ``placebo``: the columns of the context (segment,
hour, device, domain) are dealt among the rows anew, so that they say nothing.

The order of the random calls is part of the definition: figures of earlier worlds can only be compared when every draw is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Variant = Literal["base", "drift", "null", "crossed", "placebo"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
FIELDS = ("user", "item", "segment", "category", "hour", "device", "domain")
CONTEXT = ("segment", "hour", "device", "domain")
"""What is known before an item is chosen, but for the user."""
USERS, ITEMS, SEGMENTS, CATEGORIES, HOURS, DEVICES = 4_000, 1_500, 20, 40, 24, 6
_STATES, _TASTE = 4, 6
_USER_POOL = 10**6  # a user is drawn as a number below this, modulo the members of the segment


@dataclass(frozen=True)
class Clicks:
    """ids: int64[n, 7], columns as ``FIELDS``. clicked: float32[n] of 0 and 1. state: int64[n] in [0, 4). logit: float64[n], the truth."""

    ids: Ints
    clicked: npt.NDArray[np.float32]
    state: Ints
    logit: Floats


def clicks(rows: int, seed: int, variant: Variant = "base", domains: int = 12) -> Clicks:
    """The first ``rows`` views of world ``seed``. Raises ValueError for an unknown variant."""
    if variant not in ("base", "drift", "null", "crossed", "placebo"):
        raise ValueError(f"expected base, drift, null, crossed or placebo, came {variant!r}")
    draw = np.random.default_rng(seed)
    segment_of = draw.integers(0, SEGMENTS, USERS)
    category_of = draw.integers(0, CATEGORIES, ITEMS)
    mix = draw.dirichlet(np.ones(SEGMENTS) * 0.6, domains)
    size = draw.dirichlet(np.ones(domains) * 1.0) * 0.9 + 0.1 / domains
    domain = draw.choice(domains, rows, p=size / size.sum())
    user = _users(draw, domain, mix, segment_of)
    hour = draw.integers(0, HOURS, rows)
    device = draw.integers(0, DEVICES, rows)
    item = np.minimum((draw.pareto(1.1, rows) * 40).astype(np.int64), ITEMS - 1)
    by_segment = draw.normal(size=(SEGMENTS, _STATES)) * 1.5
    by_hour = draw.normal(size=(HOURS, _STATES)) * 1.0
    by_device = draw.normal(size=(DEVICES, _STATES)) * 1.0
    noise = draw.normal(size=(rows, _STATES)) * 0.15
    segment = segment_of[user]
    state: Ints = (by_segment[segment] + by_hour[hour] + by_device[device] + noise).argmax(1)
    if variant == "crossed":
        table = np.random.default_rng(seed + 2_000).integers(0, _STATES, (SEGMENTS, HOURS // 4, DEVICES))
        state = table[segment, hour // 4, device]
    taste = draw.normal(size=(USERS, _TASTE)) * 0.5 + draw.normal(size=(SEGMENTS, _TASTE))[segment_of] * 0.8
    kind = draw.normal(size=(ITEMS, _TASTE)) * 0.5 + draw.normal(size=(CATEGORIES, _TASTE))[category_of] * 0.8
    turns = _turns(draw)
    bias = draw.normal(size=_STATES) * 0.8
    domain_bias = draw.normal(size=domains) * 0.4
    if variant == "null":
        state = np.zeros(rows, np.int64)

    def logits(part: slice, turns: Floats, bias: Floats) -> Floats:
        now = state[part]
        met: Floats = np.einsum("nk,nkl,nl->n", taste[user[part]], turns[now], kind[item[part]])
        return met * 0.9 + bias[now] + domain_bias[domain[part]] - 1.2

    logit = logits(slice(None), turns, bias)
    if variant == "drift":
        later = np.random.default_rng(seed + 1_000)
        turned = _turns(later)
        half = slice(rows // 2, None)
        logit[half] = logits(half, turned, later.normal(size=_STATES) * 0.8)
    clicked = (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    ids = np.stack([user, item, segment, category_of[item], hour, device, domain], 1)
    if variant == "placebo":
        dealt = np.random.default_rng(seed + 3_000).permutation(rows)
        places = [FIELDS.index(name) for name in CONTEXT]
        ids[:, places] = ids[dealt][:, places]
    return Clicks(ids, clicked, state, logit)


def _users(draw: np.random.Generator, domain: Ints, mix: Floats, segment_of: Ints) -> Ints:
    """A user for each row: a segment by the domain's mix, then one of its members; user 0 where a segment has none."""
    members = [np.flatnonzero(segment_of == segment) for segment in range(SEGMENTS)]
    found = np.zeros(len(domain), np.int64)
    for number in range(len(mix)):
        rows = np.flatnonzero(domain == number)
        segments = draw.choice(SEGMENTS, len(rows), p=mix[number])
        drawn = draw.integers(0, _USER_POOL, len(rows))
        for segment, pool in enumerate(members):
            here = segments == segment
            if len(pool):
                found[rows[here]] = pool[drawn[here] % len(pool)]
    return found


def _turns(draw: np.random.Generator) -> Floats:
    """A random rotation for each state, ``float64[4, 6, 6]``."""
    return np.stack([np.linalg.qr(draw.normal(size=(_TASTE, _TASTE)))[0] for _ in range(_STATES)])
