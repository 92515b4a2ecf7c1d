"""From logits to labels: what is decided, and on whose word, for each of the three scores that a user may want.

    decision   without the ensemble                       with it
    f1         thresholds of the own logits               the best lately, by micro-F1, of: thresholds of plain, own, replay
                                                          and stacked; the row before; the joint decoding of stacked
    subset     the best lately, by exact labelsets, of:   the best lately, by exact labelsets, of: the joint decoding of
               joint decoding and thresholds of the own   stacked and of own; the best by F1 of the first five above; the
               logits; the row before                     row before
    hamming    own logits above 0                         stacked logits above 0

The joint decoding for F1 takes logits from which each label's threshold was subtracted.
"""

from typing import Any, Final, Literal

import numpy as np

from headrace.streaming.learners.ihomer.choice import best_f1, best_subset, score_f1, score_subset
from headrace.streaming.learners.ihomer.ensemble import OWN, PLAIN, REPLAY, STACKED, Ensemble
from headrace.streaming.learners.ihomer.labelsets import Labelsets
from headrace.streaming.learners.ihomer.thresholds import Cuts, decide

Want = Literal["f1", "hamming", "subset"]
_BEFORE: Final = 4
_JOINT: Final = 5
CANDIDATES: Final = ("plain", "own", "replay", "stacked", "the row before", "joint")


class Decision:
    """Decides, and keeps score of who was right. `by_f1` float64[6, 3] and `by_subset` float64[4 or 3, 1] are its state."""

    def __init__(self, want: Want, ensemble: bool, without: frozenset[str] = frozenset()) -> None:
        self.want, self.ensemble = want, ensemble
        joint, before = "joint" not in without, not without.intersection(("before", "persistence"))
        self._stand_f1 = np.array(
            [True, True, "replay" not in without, "stacker" not in without, before, joint]
        )
        self._stand_subset = np.array([joint, joint, True, before] if ensemble else [joint, True, before])
        self.by_f1 = np.zeros((6, 3))
        self.by_subset = np.zeros((4 if ensemble else 3, 1))
        self._size(0)

    @property
    def needs_labelsets(self) -> bool:
        """Whether labelsets have to be counted."""
        return self.ensemble or self.want == "subset"

    @property
    def is_plain(self) -> bool:
        """Whether thresholds of the own logits decide alone."""
        return not self.ensemble and self.want == "f1"

    def _size(self, labels: int) -> None:
        self._f1 = np.zeros((6, labels), np.uint8)
        self._subset = np.zeros((len(self.by_subset), labels), np.uint8)

    def said(
        self, z: Any, cuts: Cuts, ensemble: Ensemble | None, labelsets: Labelsets | None, before: Any
    ) -> Any:
        """The labels `uint8[n]` decided on for one row, valid until the next call.

        z: float32[n] of the own learner, or float32[4, n] with the ensemble. before: float32[n], the labels of the row before.
        """
        labels = z.shape[-1]
        if self._f1.shape[1] != labels:
            self._size(labels)
        if self.want == "hamming":
            return ((z[STACKED] if self.ensemble else z) >= 0.0).astype(np.uint8)
        if ensemble is None:
            return self._alone(z, cuts, labelsets, before)
        return self._together(z, cuts, ensemble, labelsets, before)

    def _alone(self, z: Any, cuts: Cuts, labelsets: Labelsets | None, before: Any) -> Any:
        if self.want == "f1":
            decide(cuts, z, self._f1[OWN])
            return self._f1[OWN]
        assert labelsets is not None
        labelsets.decode(z, self._subset[0])
        decide(cuts, z, self._subset[1])
        self._subset[2] = before == 1.0
        return self._subset[best_subset(self.by_subset, self._stand_subset)]

    def _together(
        self, z: Any, cuts: Cuts, ensemble: Ensemble, labelsets: Labelsets | None, before: Any
    ) -> Any:
        assert labelsets is not None
        plain, replay, stacked = ensemble.cuts
        for k, own in ((PLAIN, plain), (OWN, cuts), (REPLAY, replay), (STACKED, stacked)):
            decide(own, z[k], self._f1[k])
        self._f1[_BEFORE] = before == 1.0
        if self.want == "f1":
            shifted = z[STACKED] - (stacked.cut * 0.25 - 8.0).astype(np.float32)
            labelsets.decode(shifted, self._f1[_JOINT])
            return self._f1[best_f1(self.by_f1, self._stand_f1)]
        labelsets.decode(z[STACKED], self._subset[0])
        labelsets.decode(z[OWN], self._subset[1])
        self._subset[2] = self._f1[best_f1(self.by_f1[:_JOINT], self._stand_f1[:_JOINT])]
        self._subset[3] = self._f1[_BEFORE]
        return self._subset[best_subset(self.by_subset, self._stand_subset)]

    def score(self, y: Any) -> None:
        """Credit the candidates of the row that `said` was last called for with what was true, `uint8[n]`."""
        if self.want == "hamming":
            return
        if self.ensemble:
            score_f1(self.by_f1, self._f1, y)
        if self.want == "subset":
            score_subset(self.by_subset, self._subset, y)

    def drop(self) -> None:
        """A label has gone."""
        self._size(0)
