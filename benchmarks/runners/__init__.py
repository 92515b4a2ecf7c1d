"""One module per contestant, started as ``python -m benchmarks.runners.NAME '{"args": …}'`` in its own process."""
