"""The demo's feed through one click learner, without Spark: noted as it arrives, scored with what was noted when its window has ended, then learnt.

Halfway the tastes change. What is scored is what came after; a batch of the feed is a micro-batch, and event time alone ends windows.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from benchmarks.runners.protocol import Args, Result, Runner, serve
from headrace.streaming.ad_feed import LATENESS_S, ROUTED_BY, STEP_EVENTS, AdFeed
from headrace.streaming.contracts import load
from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier
from headrace.streaming.learners.columns import seconds
from headrace.streaming.learners.popularity import Popularity
from headrace.streaming.metrics import Score

BATCH = 10_000
"""Events of a micro-batch, as in the demo."""


class Feed(Runner):
    """Ours or its control, with the popularity of items beside it; the features are the contract's, as the job takes them."""

    def __init__(self, args: Args) -> None:
        torch.set_num_threads(1)
        self._args = args
        feed = AdFeed(seed=args["seed"], permute_labels=args["permuted"])
        self._batches = list(feed.batches(args["events"], BATCH))

    def run(self) -> Result:
        args, features = self._args, load("ad_feed").features
        assert features.label is not None
        ids = tuple(name for name in features.ids if name != features.event_id)
        model = AdaptDHMClassifier(
            ids=ids,
            numbers=tuple(features.dense),
            context=ROUTED_BY,
            domain=features.domain,
            routing=args["routing"],
            event=features.event_id,
            time=features.event_time,
            group=features.key,
            window=float(features.label.window_s or 0.0),
            batch=STEP_EVENTS,
            rows=1 << 15,
            seed=args["seed"],
        )
        popular, place = Popularity(), ids.index(str(features.item))
        every: list[Any] = []
        newest, began = 0.0, time.process_time()
        for batch in self._batches:
            kind = batch.column(str(features.kind))
            shown = batch.filter(pc.equal(kind, features.label.impression))
            clicks = batch.filter(pc.equal(kind, features.label.click))
            model.show(shown)
            model.click(clicks.column(str(features.label.refers_to)))
            newest = max(newest, float(seconds(batch, features.event_time).max()))
            rows = model.resolve(newest - LATENESS_S).rows
            model.version += 1
            if not len(rows.time):  # the first window has not ended yet
                continue
            item = (rows.keys[:, place, 0] & np.uint64((1 << popular.bits) - 1)).astype(np.uint32)
            said = popular.predict_hashed(item)
            popular.learn_hashed(item, rows.clicked)
            every.append((rows.scores[:, 0], said, rows.clicked))
        spent_s = time.process_time() - began
        ours, popularity, clicked = (np.concatenate(part) for part in zip(*every, strict=True))
        # In the second half everybody's tastes have changed; its first fifth is the change itself.
        after = slice(6 * len(clicked) // 10, None)
        values = {"rate": len(clicked) / spent_s, "resolved": float(len(clicked))}
        for name, scores in (("", ours), ("popularity_", popularity)):
            score = Score()
            score.update(scores[after], clicked[after])
            values |= {f"{name}auc": float(score.auc or 0.0), f"{name}log_loss": float(score.log_loss or 0.0)}
        return Result(values)


if __name__ == "__main__":
    serve(Feed)
