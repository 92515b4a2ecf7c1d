"""Planted defects of the embedding table and the recommender; see ``planted``."""

from __future__ import annotations

from .mutant import Mutant

STORE = "tests/learners/embedding/test_store.py"
DOOR = "tests/learners/embedding/test_door.py"
RECOMMENDER = "tests/learners/dynamic_sparse/test_recommender.py"
TABLE = "streaming/learners/embedding"

RECOMMENDING = (
    Mutant(
        "the budget is off by a block",
        "learners",
        f"{TABLE}/layout.py",
        "blocks = min(rows + spare, rows * max_blocks)",
        "blocks = min(rows + spare + 1, rows * max_blocks)",
        (f"{STORE}::test_a_layout_uses_its_budget_and_no_more",),
    ),
    Mutant(
        "what once was popular stays so",
        "learners",
        f"{TABLE}/store.py",
        "np.asarray(self.arrays.touches * self._freshness(now))",
        "np.asarray(self.arrays.touches * 1.0)",
        (f"{RECOMMENDER}::test_unknown_users_get_what_is_popular_now_and_not_what_once_was",),
    ),
    Mutant(
        "pairs of a forgotten user stay, but for one",
        "learners",
        f"{TABLE}/seen.py",
        "            kept += 1\n",
        "            kept += 1\n        elif place:\n            kept += 1\n",
        (f"{RECOMMENDER}::test_forgetting_a_user_forgets_whom_it_has_met",),
    ),
    Mutant(
        "a time that is not finite is the model's",
        "learners",
        "streaming/learners/dynamic_sparse/recommender.py",
        "np.isfinite(labels) if times is None else np.isfinite(labels) & np.isfinite(times)",
        "np.isfinite(labels)",
        (f"{RECOMMENDER}::test_a_time_or_a_label_that_is_no_number_costs_its_row_and_nothing_else",),
    ),
    Mutant(
        "where no rows are asked for, bytes stay unused",
        "learners",
        f"{TABLE}/layout.py",
        "key=lambda n: made(n, each).nbytes",
        "key=lambda n: made(n, 2 * each).nbytes",
        (f"{STORE}::test_a_layout_uses_its_budget_and_no_more",),
    ),
    Mutant(
        "a checkpoint without rows has those of this release",
        "learners",
        "streaming/learners/dynamic_sparse/state.py",
        'rows=len(arrays["store.keys"]) if rows is None else rows',
        "rows=rows",
        (f"{RECOMMENDER}::test_earlier_checkpoints_still_open",),
    ),
    Mutant(
        "a recycled block keeps Adam's moments",
        "learners",
        f"{TABLE}/blocks.py",
        "        arrays.first[block] = 0.0\n        arrays.second[block] = 0.0\n",
        "        pass\n",
        (f"{STORE}::test_a_recycled_row_remembers_nothing[adam]",),
    ),
    Mutant(
        "Adam's correction is that of another step",
        "learners",
        f"{TABLE}/moments.py",
        "rates[0] * corrected[t, 0] / corrected[t, 1]",
        "rates[0] * corrected[t - 1, 0] / corrected[t, 1]",
        (f"{STORE}::test_adams_corrections_are_those_of_its_formula_where_they_are_looked_up_and_beyond",),
    ),
    Mutant(
        "a recycled row keeps Adagrad's sum",
        "learners",
        f"{TABLE}/rows.py",
        "        arrays.square[row] = 0.0\n",
        "",
        (f"{STORE}::test_a_recycled_row_remembers_nothing[adagrad]",),
    ),
    Mutant(
        "a row in use may be evicted",
        "learners",
        f"{TABLE}/store.py",
        "        worth[used] = np.inf\n",
        "",
        (f"{STORE}::test_eviction_takes_who_is_seen_least_and_never_a_row_in_use",),
    ),
    Mutant(
        "only rows that were just pruned grow",
        "learners",
        "streaming/learners/dynamic_sparse/explore.py",
        "grown = store.give(growing)",
        "grown = store.give(store.least(len(growing), now))",
        (f"{RECOMMENDER}::test_growth_goes_to_rows_with_the_largest_pull_and_never_exceeds_the_budget",),
    ),
    Mutant(
        "a generation does not change when its row is given up",
        "learners",
        f"{TABLE}/rows.py",
        "arrays.generation[row] += np.uint32(1)",
        "arrays.generation[row] += np.uint32(0)",
        (f"{STORE}::test_what_comes_late_leaves_the_floor_and_a_reader_can_tell",),
    ),
    Mutant(
        "the random numbers of the table are not kept",
        "learners",
        "streaming/learners/dynamic_sparse/state.py",
        "        tensors.restore_random(model._store.random, kept.store_random)\n",
        "",
        (f"{RECOMMENDER}::test_a_restored_recommender_goes_on_as_the_kept_one_would[fp32]",),
    ),
    Mutant(
        "a user's row counts no more than an item's",
        "learners",
        "streaming/learners/dynamic_sparse/recommender.py",
        "USER_TOUCHES: Final = 8",
        "USER_TOUCHES: Final = 1",
        (f"{RECOMMENDER}::test_items_met_a_little_more_often_do_not_take_the_rows_of_users",),
    ),
    Mutant(
        "a newcomer need not have been met more often than whom it pushes out",
        "learners",
        f"{TABLE}/store.py",
        "won = int((met[order[free : free + n]] > worth[:n]).sum())",
        "won = n",
        (
            f"{DOOR}::test_a_newcomer_takes_a_row_once_it_was_met_more_often_than_whom_it_pushes_out",
            f"{DOOR}::test_of_many_newcomers_those_met_most_have_the_rows_there_are",
        ),
    ),
    Mutant(
        "what was counted without a row does not age",
        "learners",
        f"{TABLE}/store.py",
        "self.arrays.knocks[:] *= np.float32(fresh)",
        "self.arrays.knocks[:] *= np.float32(1.0)",
        (f"{DOOR}::test_counts_age_on_both_sides_of_the_door",),
    ),
)
