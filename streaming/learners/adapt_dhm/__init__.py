"""Clicks of many domains: one network whose weights follow the event's context (AdaptDHM, arXiv 2211.12105), learnt on the stream.

Read `network` (shared and cluster factors), `routing` (which cluster, and who says so), `table` (ids as inputs and scores) and `model` (the
torch module of the three), then `fields` (events as keys and numbers), `pending` (labels that come late), `watch` (drift), `classifier` (its
River face) and `state` (how it is kept). Nothing is imported here: `model` brings torch, `classifier` brings river.
"""
