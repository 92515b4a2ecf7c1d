"""Soak of the learners: properties with many examples, and whole runs on streams whose truth is known.

Where labels are permuted there is nothing to learn, and a model that seems to learn has seen what it should not.
"""

from __future__ import annotations

from pathlib import Path

from tests.learners import test_prequential as prequential
from tests.learners.dynamic_sparse import test_recommender as recommender

from .item import Item, Room, Tried, properties


def permuted_labels(seed: int, folder: Path, runs: int = 4) -> Tried:
    """The AUC of model and baseline stays at a half, and no prediction was made by a version that had learnt its row."""
    furthest = 0.0
    for number in range(runs):
        pipeline = prequential.Pipeline()
        metrics = pipeline.run(prequential.stream(seed + number, permuted=True))
        for name in ("model", "baseline"):
            furthest = max(furthest, abs(metrics[name]["auc"] - 0.5))
        pipeline.audit()
    assert furthest < 0.03, f"AUC {furthest} away from a half, with labels that nothing predicts"
    return Tried(runs * prequential.N_IMPRESSIONS, {"furthest_from_half": round(furthest, 4)})


def true_labels(seed: int, folder: Path, runs: int = 3) -> Tried:
    """The model beats popularity, whatever the users and items of the stream."""
    margins = []
    for number in range(runs):
        pipeline = prequential.Pipeline()
        metrics = pipeline.run(prequential.stream(seed + number, permuted=False))
        pipeline.audit()
        margins.append(metrics["model"]["auc"] - metrics["baseline"]["auc"])
    assert min(margins) > 0.02, f"model over baseline by AUC {margins}"
    return Tried(runs * prequential.N_IMPRESSIONS, {"least_margin": round(min(margins), 4)})


def killed_recommender(seed: int, folder: Path) -> Tried:
    """Killed at 20 random points, a recommender ends in the state of an uninterrupted run, to the bit."""
    ended, places = recommender.killed_and_continued(folder, kills=20, batches=300, seed=seed)
    assert ended == recommender.uninterrupted(300)
    assert places > 5, f"20 kills hit {places} places"
    return Tried(20, {"places": places})


ROOM = Room(
    (
        Item("properties of the learners", properties("tests/learners", examples=800)),
        Item("permuted labels", permuted_labels),
        Item("true labels", true_labels),
        Item("a recommender killed at 20 points", killed_recommender),
    )
)
