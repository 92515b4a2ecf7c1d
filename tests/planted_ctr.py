"""Planted defects of AdaptDHM; see ``planted``."""

from __future__ import annotations

from .mutant import Mutant

MODEL = "tests/learners/adapt_dhm/test_model.py"
CLASSIFIER = "tests/learners/adapt_dhm/test_classifier.py"
ROOM = "streaming/learners/adapt_dhm"

CLICKING = (
    Mutant(
        "the gradient stops at the router",
        "learners",
        f"{ROOM}/routing.py",
        "            return own\n",
        "            return own.detach()\n",
        (f"{MODEL}::test_the_router_is_taught_by_the_loss",),
    ),
    Mutant(
        "a label leaks into the prediction it is scored with",
        "learners",
        f"{ROOM}/pending.py",
        "            segment.rows.clicked[new] = 1\n",
        "            segment.rows.clicked[new] = 1\n            segment.rows.scores[new, 0] = 1.0\n",
        (f"{CLASSIFIER}::test_it_learns_from_a_stream_and_scores_what_was_predicted_then",),
    ),
    Mutant(
        "a fresh prediction is scored",
        "learners",
        f"{ROOM}/classifier.py",
        "        rows = self.pending.resolve(now)\n",
        "        rows = self.pending.resolve(now)\n"
        "        if len(rows.time):\n"
        "            rows.scores[:, 0] = self.predict(Inputs(rows.keys, rows.numbers, 0))\n",
        (f"{CLASSIFIER}::test_it_learns_from_a_stream_and_scores_what_was_predicted_then",),
    ),
    Mutant(
        "a prediction of an unpublished version is taken",
        "learners",
        f"{ROOM}/classifier.py",
        "        if newest > self.version:",
        "        if newest > self.version + 1:",
        (f"{CLASSIFIER}::test_a_prediction_of_an_unpublished_version_is_refused",),
    ),
    Mutant(
        "a cross is its first id alone",
        "learners",
        f"{ROOM}/kernels.py",
        "low ^ keys[at, place, word]",
        "low ^ keys[at, places[0], word]",
        (f"{MODEL}::test_a_cross_is_one_id_of_several",),
    ),
    Mutant(
        "immediate negatives are not weighed",
        "learners",
        f"{ROOM}/model.py",
        "torch.where(labels > 0, 1 + p, (1 - p) * (1 + p))",
        "torch.where(labels > 0, 1 + 0 * p, 1 + 0 * p)",
        (f"{CLASSIFIER}::test_delayed_feedback_converges_to_the_true_rate[now]",),
    ),
    Mutant(
        "the logit is not corrected for dropped negatives",
        "learners",
        f"{ROOM}/classifier.py",
        "logits + float(np.log(self.negative_rate))",
        "logits",
        (f"{CLASSIFIER}::test_fewer_negatives_and_the_rate_is_still_the_true_one",),
    ),
    Mutant(
        "a context of many values counts like any other",
        "learners",
        f"{ROOM}/table.py",
        "min(1.0, TRUSTED / max(1, count))",
        "1.0",
        (f"{MODEL}::test_beside_one_of_few_values_a_context_of_many_counts_for_less",),
    ),
    Mutant(
        "a context of many values counts for less where there is no other",
        "learners",
        f"{ROOM}/table.py",
        "*= own / max(rho)",
        "*= own",
        (f"{MODEL}::test_beside_one_of_few_values_a_context_of_many_counts_for_less",),
    ),
    Mutant(
        "scores of an earlier format keep their size",
        "learners",
        f"{ROOM}/state.py",
        "            if kept.format < RELATIVE:",
        "            if kept.format > RELATIVE:",
        (f"{CLASSIFIER}::test_scores_that_once_counted_by_their_fields_values_alone_say_the_same",),
    ),
    Mutant(
        "the guard never fades",
        "learners",
        f"{ROOM}/routing.py",
        "            if mean < -2 * error:",
        "            if mean < -200 * error:",
        (f"{MODEL}::test_a_context_that_says_nothing_is_faded_out_and_no_other[placebo-True]",),
    ),
    Mutant(
        "Adam's moments of the network are not kept",
        "learners",
        f"{ROOM}/state.py",
        '            mine[...] = like(arrays, f"adam.{part}.{name}", mine)',
        '            like(arrays, f"adam.{part}.{name}", mine)',
        (f"{CLASSIFIER}::test_killed_at_twenty_points_it_ends_where_it_would_have[lar]",),
    ),
    Mutant(
        "rows go through each other's networks",
        "learners",
        f"{ROOM}/network.py",
        "logits.index_copy(0, order, torch.cat(found))",
        "torch.cat(found)",
        (f"{MODEL}::test_grouped_dispatch_is_all_networks_and_a_choice",),
    ),
)
