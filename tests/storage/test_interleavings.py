"""A thousand orders of operations, none of which brings a forgotten person back; `make soak ROOM=storage` runs ten thousand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from headrace.storage import late_rows

from .interleaving import interleave

ORDERS, PARTS = 1_000, 8


@pytest.mark.parametrize("part", range(PARTS))
def test_nobody_comes_back_in_any_interleaving(tmp_path: Path, part: int) -> None:
    each = ORDERS // PARTS
    n = 0
    for seed in range(part * each, (part + 1) * each):
        n += interleave(tmp_path / str(seed), seed)
        shutil.rmtree(tmp_path / str(seed))
    assert n > 4 * each, "operations that were tried"


def test_the_interleavings_see_who_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the check at commit some interleaving brings a person back."""
    monkeypatch.setattr(late_rows.LateRows, "cleared", lambda self, table: tuple(self._files.values()))

    def some() -> int:
        return sum(interleave(tmp_path / str(number), number) for number in range(50))

    with pytest.raises(AssertionError, match="came back"):
        some()
