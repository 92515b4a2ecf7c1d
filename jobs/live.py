"""What a person sees while a job runs: one panel on a terminal, one line every few seconds anywhere else.

In the flow: reads the progress that each commit carries; it never talks to Spark.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from headrace.jobs.progress import Progress

PLAIN_EVERY_S = 5.0


@dataclass(frozen=True)
class Sight:
    """One look at a running job. ``produced`` counts events; ``note`` says what is being waited for."""

    produced: int
    progress: Progress | None
    elapsed_s: float
    memory_bytes: int
    note: str

    @property
    def lag(self) -> int:
        """Events produced and not yet accounted for by a commit."""
        return self.produced - (self.progress.total.events if self.progress is not None else 0)


def auc_text(progress: Progress | None) -> str:
    """``model 0.712, popularity 0.604, AdaptDHM 0.731, K=1 0.722`` since the start, or why there is none yet."""
    found = []
    for said, names in (
        (progress.metrics if progress is not None else None, ("model", "popularity")),
        (progress.clicks if progress is not None else None, ("AdaptDHM", "K=1")),
    ):
        scores = [said[who]["auc"] for who in ("model", "baseline")] if said else []
        found += [f"{name} {auc:.3f}" for name, auc in zip(names, scores, strict=False) if auc is not None]
    return ", ".join(found) or "no label yet"


def rows_of(sight: Sight) -> list[tuple[str, str]]:
    """The figures of one look, by name."""
    total = sight.progress.total if sight.progress is not None else None
    rows = [("events in", f"{sight.produced:,}")]
    if total is not None:
        rows += [
            ("stored", f"{total.stored:,}"),
            ("dead", f"{total.dead:,}"),
            ("late", f"{total.late:,}"),
            ("duplicates", f"{total.duplicates:,}"),
        ]
        if total.forgotten:
            rows.append(("forgotten", f"{total.forgotten:,}"))
    rows += [
        ("lag", f"{sight.lag:,}"),
        ("AUC", auc_text(sight.progress)),
        ("memory", f"{sight.memory_bytes / 2**30:.1f} GiB"),
        ("time", f"{sight.elapsed_s:.0f} s"),
    ]
    return rows


class LiveView:
    """Shows looks as they come; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        )
        self._printed_at = -PLAIN_EVERY_S

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def show(self, sight: Sight) -> None:
        """Show ``sight`` at once on a terminal, and at most every five seconds in a log."""
        if self._live is not None:
            grid = Table(title=sight.note, show_header=False, min_width=48)
            for name, text in rows_of(sight):
                grid.add_row(name, text)
            self._live.update(grid)
        elif time.monotonic() - self._printed_at >= PLAIN_EVERY_S:
            self._printed_at = time.monotonic()
            self._console.print(
                f"{sight.note}: " + " · ".join(f"{n} {t}" for n, t in rows_of(sight)),
                highlight=False,
                soft_wrap=True,
            )
