"""Learners: features in, probabilities out, one row at a time; they know nothing of contracts, topics or tables.

Read `features` (what a learner sees), `ftrl` (how it learns), `click_model` (its River face), `popularity` (what it has
to beat), `checkpoint` (how it is kept), `ihomer` (many labels per row), `embedding` (a table that never exceeds its bytes) and `dynamic_sparse`
(recommenders on it), `adapt_dhm` (clicks of many domains on it) and `tensors` (how both are kept). Nothing is imported here: `click_model` brings river, learning brings numba.
"""
