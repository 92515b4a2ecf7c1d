"""The generated ad feed's world: its users, items and advertisers, and what makes someone click.

`ad_feed` lets time pass in it. All popularity is Zipf's. A click's log-odds are the sum of effects of the user,
the item, the advertiser, the domain, the place and some dense features, which a linear model of hashed ids can
learn, and of the taste of the user's behaviour cluster for the item's theme, which it cannot. Clusters are drawn
apart from everything that is sent, so neither domains nor age bands tell them; only the items a user clicks do.

It says nothing about real users: the numbers were chosen to make learners differ, not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CLUSTERS, THEMES = 6, 12
DOMAINS = ("feed", "search", "video", "shop", "news", "games", "music", "mail", "maps", "live")
CATEGORIES = tuple(f"category_{n:02d}" for n in range(24))
TAGS = tuple(f"tag_{n:02d}" for n in range(24))
OS = ("android", "ios", "windows", "macos", "linux", "tvos")
BROWSERS = ("chrome", "safari", "firefox", "edge", "app", "other")
CARRIERS = ("north", "south", "east", "west")
COUNTRIES = ("DE", "FR", "IT", "ES", "PL", "NL", "AT", "SE")
LANGUAGES = ("de", "fr", "it", "es", "pl", "nl", "de", "sv")
AGE_BANDS = ("-17", "18-24", "25-34", "35-44", "45-54", "55-64", "65-", "unknown")
GENDERS = ("female", "male", "other")
PAGE_TYPES = ("home", "list", "detail", "article", "player", "checkout")
PLACEMENTS = ("top", "side", "inline", "bottom", "overlay")
AD_FORMATS = ("image", "video", "carousel", "text", "native")
DEVICES = ("phone", "tablet", "desktop", "tv")
CONNECTIONS = ("wifi", "5g", "4g", "3g", "wired")


def zipf(n: int, exponent: float, offset: float = 1.0) -> Floats:
    """Shares of n things, `1 / (rank + offset) ** exponent`, float64[n], largest first, summing to 1."""
    shares = 1.0 / (np.arange(n) + offset) ** exponent
    return np.asarray(shares / shares.sum())


def draw(rng: np.random.Generator, shares: Floats, n: int) -> Ints:
    """n indices into `shares` with those probabilities, int64[n]."""
    return np.minimum(np.searchsorted(np.cumsum(shares), rng.random(n), "right"), len(shares) - 1)


@dataclass(frozen=True)
class World:
    """Tables of everything that stays the same while events pass; users and items are row numbers in them.

    Attributes:
        user_cluster: int64[users], the hidden behaviour cluster.
        item_theme: int64[items], the hidden theme.
        user_share, item_share: float64, probability that an impression is this user's, this item's.
        user_columns, item_columns: contract columns that follow from the user or the item alone.
        tastes: two tables float64[CLUSTERS, THEMES], before and after the drift.
    """

    user_cluster: Ints
    user_effect: Floats
    user_share: Floats
    user_columns: dict[str, Any]
    item_theme: Ints
    item_effect: Floats
    item_share: Floats
    item_columns: dict[str, Any]
    tastes: tuple[Floats, Floats]
    domain_share: Floats
    domain_effect: Floats
    placement_effect: Floats
    device_effect: Floats

    def log_odds(
        self, user: Ints, item: Ints, shown: Mapping[str, Any], drifted: NDArray[np.bool_]
    ) -> Floats:
        """Log-odds of a click up to a constant, float64[n], from what was `shown` to whom."""
        pair = self.user_cluster[user], self.item_theme[item]
        taste = np.where(drifted, self.tastes[1][pair], self.tastes[0][pair])
        place = self.placement_effect[shown["placement"]] + self.device_effect[shown["device"]]
        place = place + self.domain_effect[shown["domain"]] - 0.04 * shown["position"]
        dense = 0.5 * shown["relevance"] + 0.8 * shown["viewability"] + 1.5 * shown["quality"]
        return np.asarray(self.user_effect[user] + self.item_effect[item] + taste + place + dense)

    def past_clicks(self, rng: np.random.Generator, most: int) -> tuple[NDArray[np.int32], Ints]:
        """What each user clicked before the feed begins: int32[users, most] oldest first, and how many, int64."""
        users = len(self.user_share)
        expected = 0.08 * self.user_share * users * 170
        counts = np.minimum(rng.poisson(expected), most)
        clicked = np.zeros((users, most), np.int32)
        for cluster in range(CLUSTERS):
            liking = self.item_share * np.exp(self.item_effect + self.tastes[0][cluster, self.item_theme])
            mine = np.flatnonzero(self.user_cluster == cluster)
            mask = np.arange(most) < counts[mine, None]
            part = np.zeros(mask.shape, np.int32)
            part[mask] = draw(rng, liking / liking.sum(), int(mask.sum()))
            clicked[mine] = part
        return clicked, counts


def make_world(rng: np.random.Generator, users: int, items: int, advertisers: int) -> World:
    """A world of that size; the same generator state gives the same world."""
    user_share = rng.permutation(zipf(users, 0.8, 10.0))
    theme = rng.integers(0, THEMES, items)
    item_share = rng.permutation(zipf(items, 0.9, 8.0))
    # Advertisers keep to few themes, and their popularity is Zipf's too.
    advertiser = draw(rng, zipf(advertisers, 1.0, 3.0), items)
    country = draw(rng, zipf(len(COUNTRIES), 1.0), users)
    before = rng.normal(0.0, 1.1, (CLUSTERS, THEMES))
    # No theme is liked by all, or the item's own effect would give the clusters away.
    before -= before.mean(axis=0)
    return World(
        user_cluster=rng.integers(0, CLUSTERS, users),
        user_effect=rng.normal(0.0, 0.8, users),
        user_share=user_share,
        user_columns=_users(rng, users, country, user_share),
        item_theme=theme,
        item_effect=rng.normal(0.0, 0.45, items) + rng.normal(0.0, 0.35, advertisers)[advertiser],
        item_share=item_share,
        item_columns=_items(rng, items, theme, advertiser),
        tastes=(before, np.roll(before, 5, axis=1)),
        domain_share=zipf(len(DOMAINS), 0.9),
        domain_effect=rng.normal(0.0, 0.25, len(DOMAINS)),
        placement_effect=np.array([0.5, -0.3, 0.2, -0.5, 0.3]),
        device_effect=np.array([0.2, 0.1, -0.1, -0.6]),
    )


def _users(rng: np.random.Generator, users: int, country: Ints, share: Floats) -> dict[str, Any]:
    carrier = rng.integers(0, len(CARRIERS), users)
    gender = rng.integers(0, len(GENDERS), users)
    return {
        "country": words(COUNTRIES, country),
        "language": words(LANGUAGES, country),
        "region": pa.array(country * 100 + rng.integers(0, 16, users), pa.int16()),
        "age_band": words(AGE_BANDS, rng.integers(0, len(AGE_BANDS), users)),
        # Not everyone tells a gender, nor uses a mobile network.
        "gender": words(GENDERS, gender, rng.random(users) < 0.3),
        "carrier": words(CARRIERS, carrier, rng.random(users) < 0.25),
        "os": words(OS, draw(rng, zipf(len(OS), 1.0), users)),
        "browser": words(BROWSERS, draw(rng, zipf(len(BROWSERS), 1.0), users)),
        "user_age_d": floats(rng.gamma(2.0, 300.0, users), 1),
        "activity": floats(np.log10(share * 1e5), 3),
    }


def _items(rng: np.random.Generator, items: int, theme: Ints, advertiser: Ints) -> dict[str, Any]:
    # Each theme has two categories and two tags of its own; a fifth of the items stray.
    stray = rng.random(items) < 0.2
    category = np.where(stray, rng.integers(0, len(CATEGORIES), items), 2 * theme + rng.integers(0, 2, items))
    campaign = advertiser * 8 + rng.integers(0, 8, items)
    tag = np.stack([2 * theme, 2 * theme + 1, rng.integers(0, len(TAGS), items)], axis=1)
    has = rng.random((items, 3)) < np.array([0.9, 0.5, 0.3])
    has[:, 2] &= tag[:, 2] // 2 != theme
    ends = np.concatenate([[0], np.cumsum(has.sum(axis=1))])
    return {
        "advertiser_id": pa.array(advertiser, pa.int32()),
        "campaign_id": pa.array(campaign, pa.int32()),
        "creative_id": pa.array(campaign * 16 + rng.integers(0, 16, items), pa.int32()),
        "brand_id": pa.array(theme * 40 + rng.integers(0, 40, items), pa.int32()),
        "category": words(CATEGORIES, category),
        "price": floats(np.minimum(rng.lognormal(3.2, 1.1, items), 9_999.0), 2),
        "discount": floats(np.maximum(rng.normal(0.0, 0.2, items), 0.0).clip(0.0, 0.9), 2),
        "advertiser_age_d": floats(rng.gamma(2.0, 400.0, int(advertiser.max()) + 1)[advertiser], 1),
        "text_length": floats(rng.gamma(3.0, 30.0, items), 0),
        "brightness": floats(rng.beta(3.0, 3.0, items), 3),
        "tags": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), words(TAGS, tag[has])),
    }


def words(names: tuple[str, ...], index: Ints, absent: NDArray[np.bool_] | None = None) -> pa.StringArray:
    """The names at `index`, null where `absent`."""
    return pa.array(names, pa.string()).take(pa.array(index, mask=absent))


def floats(values: Floats, decimals: int) -> pa.FloatArray:
    """float32 with few decimals, which keeps the JSON short."""
    return pa.array(np.round(values, decimals).astype(np.float32))
