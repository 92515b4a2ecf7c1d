"""How fast and how small, against others: ``python -m benchmarks NAME``; see docs/how-to/benchmarks.md.

One module per table (``pipeline``, …) declares cases. The harness starts each contestant in a process of its own, lets them
take turns, and writes down the minimum, the spread and the CPU seconds, losses included.

This module and ``runners.protocol`` import the standard library alone: they also run inside the rivals' environments.
"""
