"""The column store."""
