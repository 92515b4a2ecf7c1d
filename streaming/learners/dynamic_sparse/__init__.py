"""Recommenders inside a byte budget: dynamic sparse learning as published, and with blocks that are really there.

Read `published` (masks over dense tables, Wang et al., WSDM 2024), `backbones` (MF, LightGCN), then `explore` (where blocks go),
`kernels` (how a batch is learnt), `recommender` (its River face), `state` (how it is kept) and `serving` (how it is asked).
Nothing is imported here: `published`, `backbones` and `serving` bring torch, `recommender` brings river.
"""
