"""Where a file's uuid, hash seed and page nonces come from: the operating system, or a seed for identical bytes.

Nonces salt page hashes, so that a kept old hash cannot be tested against guesses of the values it covered. The seed
itself is therefore never written; only use one where that protection is not needed, as in tests.
"""

from __future__ import annotations

import os

from blake3 import blake3


class Entropy:
    """A stream of bytes: unpredictable, or the same ones for the same seed."""

    def __init__(self, seed: int | None) -> None:
        self._hasher = None
        self._at = 0
        if seed is not None:
            key = seed.to_bytes(16, "little", signed=True)
            self._hasher = blake3(key, derive_key_context="headrace.storage seeded file bytes v1")

    def take(self, n_bytes: int) -> bytes:
        """The next bytes."""
        if self._hasher is None:
            return os.urandom(n_bytes)
        out: bytes = self._hasher.digest(length=n_bytes, seek=self._at)
        self._at += n_bytes
        return out
