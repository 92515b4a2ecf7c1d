"""iHOMER: multi-label learning on a stream.

Read `model` (what a user holds), `core` (what happens to a row), `linear`, `thresholds` and `decision` (what predicts),
`label_odac`, `clustered` and `global_tree` (the hierarchy), `watching` (drift), `state` (how it is kept). Nothing is imported here.
"""
