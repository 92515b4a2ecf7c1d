"""Prequential quality: every prediction is scored once, with the label that came later, before anything learns from it.

Predict, score, then learn is Gama, Sebastião and Rodrigues, "On evaluating stream learning algorithms", Machine
Learning 90 (2013). What is scored is the prediction stored when the event was served, never a fresh one. State has a
fixed size: for each predictor a histogram of scores of positives and negatives (the AUC), a sum of log losses and a
sum of predictions, since the start, in the window, and per domain. Two states can be merged, and all is plain JSON.

The AUC from a histogram takes a positive and a negative in one bin for a tie, so it is off by at most half the share of
(positive, negative) pairs that share a bin; `Score.auc_error` computes that bound from the counts. Bins are 1/128 wide
in the logit, between ±16. Scores that are equal before binning, such as all those of an empty model, count in it too.

Deliberately absent: decaying averages, for which no bound could be given, and thresholds: nothing here decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.streaming.errors import StreamingError

BINS = 4096
_PER_LOGIT = 128
_CENTRE = BINS // 2
_OTHER = "(other)"
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


class BadMetrics(StreamingError, ValueError):
    """A stored state of metrics is not one this module wrote."""


def bins_of(scores: F32) -> tuple[I64, F64]:
    """The bin of each probability, `int64[n]` in [0, BINS), never falling as it rises, and its value as float64."""
    p = np.clip(scores.astype(np.float64), 1e-30, 1.0 - 2.0**-24)
    logit = np.log(p) - np.log1p(-p)
    place = np.floor(logit * _PER_LOGIT).astype(np.int64) + _CENTRE
    return np.clip(place, 0, BINS - 1), p


@dataclass
class Score:
    """How well one predictor's probabilities met their labels. positives, negatives: int64[BINS], counts by score."""

    positives: I64 = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    negatives: I64 = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    loss: float = 0.0
    predicted: float = 0.0

    def update(self, scores: F32, labels: U8) -> None:
        """Add predictions `float32[n]` in (0, 1) with their labels `uint8[n]`, 0 or 1.

        >>> score = Score()
        >>> score.update(np.array([0.9, 0.2, 0.4], dtype=np.float32), np.array([1, 0, 0], dtype=np.uint8))
        >>> score.auc, round(score.log_loss, 3), score.rows
        (1.0, 0.28, 3)
        """
        place, p = bins_of(scores)
        clicked = labels == 1
        self.positives += np.bincount(place[clicked], minlength=BINS)
        self.negatives += np.bincount(place[~clicked], minlength=BINS)
        self.loss -= float(np.log(p[clicked]).sum() + np.log1p(-p[~clicked]).sum())
        self.predicted += float(p.sum())

    def merge(self, other: "Score") -> None:
        """Add what `other` has seen."""
        self.positives += other.positives
        self.negatives += other.negatives
        self.loss += other.loss
        self.predicted += other.predicted

    @property
    def rows(self) -> int:
        return int(self.positives.sum() + self.negatives.sum())

    @property
    def auc(self) -> float | None:
        """The chance that a positive is scored above a negative, ties half; None while one of the two is missing."""
        pairs = int(self.positives.sum()) * int(self.negatives.sum())
        if not pairs:
            return None
        below = np.cumsum(self.negatives) - self.negatives
        return float((self.positives * (below + 0.5 * self.negatives)).sum() / pairs)

    @property
    def auc_error(self) -> float | None:
        """A bound on how far `auc` is from the AUC of the scores themselves."""
        pairs = int(self.positives.sum()) * int(self.negatives.sum())
        return float((self.positives * self.negatives).sum() / pairs / 2) if pairs else None

    @property
    def log_loss(self) -> float | None:
        """Mean negative log-likelihood in nats; None before the first row."""
        return self.loss / self.rows if self.rows else None

    @property
    def calibration(self) -> float | None:
        """Predicted clicks over clicks: 1 is calibrated, 2 promises twice too many; None before the first click."""
        clicks = int(self.positives.sum())
        return self.predicted / clicks if clicks else None

    def summary(self) -> dict[str, Any]:
        return {
            "auc": self.auc,
            "auc_error": self.auc_error,
            "log_loss": self.log_loss,
            "calibration": self.calibration,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; only bins that hold something are listed, as [bin, positives, negatives]."""
        used = np.flatnonzero(self.positives + self.negatives)
        table = np.stack([used, self.positives[used], self.negatives[used]], axis=1)
        return {"bins": table.tolist(), "loss": self.loss, "predicted": self.predicted}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Score":
        """The score that `to_dict` wrote. Raises BadMetrics."""
        score = cls()
        try:
            score.loss, score.predicted = float(data["loss"]), float(data["predicted"])
            table = np.array(data["bins"], dtype=np.int64).reshape(-1, 3)
        except (KeyError, TypeError, ValueError) as error:
            raise BadMetrics(f"expected bins, loss and predicted, came {sorted(data)}: {error!r}") from error
        if table.size and (table.min() < 0 or table[:, 0].max() >= BINS):
            raise BadMetrics(f"expected bins in [0, {BINS}) and counts of at least 0")
        score.positives[table[:, 0]], score.negatives[table[:, 0]] = table[:, 1], table[:, 2]
        return score


def gauc(groups: npt.NDArray[np.uint64], scores: F32, labels: U8) -> tuple[float, int]:
    """AUC within each group (a user), averaged by its rows, and how many rows that is: of groups with both labels; ties count half.

    >>> gauc(np.array([1, 1, 2, 2, 3], np.uint64), np.array([0.9, 0.1, 0.2, 0.3, 0.5], np.float32), np.array([1, 0, 1, 0, 1], np.uint8))
    (0.5, 4)
    """
    order = np.lexsort((scores, groups))
    group, score, clicked = groups[order], scores[order], labels[order] == 1
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]][: len(group)])
    sizes = np.diff(starts, append=len(group))
    number = np.repeat(np.arange(len(starts)), sizes)
    tied = np.flatnonzero(np.r_[True, (group[1:] != group[:-1]) | (score[1:] != score[:-1])][: len(group)])
    wide = np.diff(tied, append=len(group))
    rank = np.repeat(tied + (wide - 1) / 2, wide) - starts[number]  # mean rank within the group, from 0
    positives = np.bincount(number, clicked, len(starts))
    negatives = sizes - positives
    above = np.bincount(number[clicked], rank[clicked], len(starts)) - positives * (positives - 1) / 2
    both = (positives > 0) & (negatives > 0)
    rows = int(sizes[both].sum())
    if not rows:
        return 0.0, 0
    return float((above[both] / (positives * negatives)[both] * sizes[both]).sum() / rows), rows


@dataclass
class Duel:
    """The model and the baseline on the same rows."""

    model: Score = field(default_factory=Score)
    baseline: Score = field(default_factory=Score)

    def update(self, prediction: F32, baseline: F32, labels: U8) -> None:
        self.model.update(prediction, labels)
        self.baseline.update(baseline, labels)

    def merge(self, other: "Duel") -> None:
        self.model.merge(other.model)
        self.baseline.merge(other.baseline)

    def summary(self) -> dict[str, Any]:
        positives = int(self.model.positives.sum())
        counts = {"rows": self.model.rows, "positives": positives}
        return {**counts, "model": self.model.summary(), "baseline": self.baseline.summary()}

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model.to_dict(), "baseline": self.baseline.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Duel":
        try:
            return cls(Score.from_dict(data["model"]), Score.from_dict(data["baseline"]))
        except KeyError as error:
            raise BadMetrics(f"expected model and baseline, came {sorted(data)}") from error


class Prequential:
    """Model against baseline: since the start, per domain, and in tumbling windows of `window_rows` scored rows.

    The first `max_domains` domains to come are kept apart, later ones together as "(other)", so the state is bounded.
    How the rows were cut into `update` calls changes nothing but the last bits of the loss sums.
    """

    def __init__(self, window_rows: int = 5000, max_domains: int = 64) -> None:
        if window_rows < 1 or max_domains < 0:
            raise ValueError(
                f"expected window_rows >= 1 and max_domains >= 0, came {window_rows}, {max_domains}"
            )
        self.window_rows, self.max_domains = window_rows, max_domains
        self.total = Duel()
        self.domains: dict[str, Duel] = {}
        self.windows = 0
        self.last_window: dict[str, Any] | None = None
        self._window = Duel()

    def update(self, prediction: F32, baseline: F32, labels: U8, domains: pa.Array | None = None) -> None:
        """Score `n` rows in order: `prediction`, `baseline` float32[n], `labels` uint8[n], `domains` strings (null: none)."""
        start = 0
        while start < len(labels):
            stop = min(len(labels), start + self.window_rows - self._window.model.rows)
            part = Duel()
            part.update(prediction[start:stop], baseline[start:stop], labels[start:stop])
            self.total.merge(part)
            self._window.merge(part)
            if self._window.model.rows == self.window_rows:
                self.last_window = {"window": self.windows, **self._window.summary()}
                self.windows += 1
                self._window = Duel()
            start = stop
        if domains is None:
            return
        coded = domains.dictionary_encode()  # in the order of their first rows
        codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        for code, domain in enumerate(coded.dictionary.to_pylist()):
            here = codes == code
            self._domain(domain).update(prediction[here], baseline[here], labels[here])

    def _domain(self, domain: str) -> Duel:
        if domain not in self.domains:
            named = len(self.domains) - (_OTHER in self.domains)
            domain = domain if named < self.max_domains else _OTHER
        return self.domains.setdefault(domain, Duel())

    def row(self) -> dict[str, Any]:
        """What there is to report: totals since the start, the last full window (None before the first), the domains."""
        by_domain = {name: duel.summary() for name, duel in sorted(self.domains.items())}
        return {
            **self.total.summary(),
            "window": self.last_window,
            "windows": self.windows,
            "domains": by_domain,
        }

    def to_dict(self) -> dict[str, Any]:
        """The whole state as plain JSON."""
        return {
            "window_rows": self.window_rows,
            "max_domains": self.max_domains,
            "windows": self.windows,
            "last_window": self.last_window,
            "total": self.total.to_dict(),
            "window": self._window.to_dict(),
            "domains": [[name, duel.to_dict()] for name, duel in self.domains.items()],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Prequential":
        """The state that `to_dict` wrote. Raises BadMetrics."""
        try:
            state = cls(int(data["window_rows"]), int(data["max_domains"]))
            state.windows, state.last_window = int(data["windows"]), data["last_window"]
            state.total, state._window = Duel.from_dict(data["total"]), Duel.from_dict(data["window"])
            state.domains = {str(name): Duel.from_dict(duel) for name, duel in data["domains"]}
        except (KeyError, TypeError, ValueError) as error:
            raise BadMetrics(f"not a state of prequential metrics: {error!r}") from error
        return state
