"""What a person reads when the demo has ended: where the data lies, its size beside Parquet, quality, and what to type next."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from headrace import storage
from headrace.jobs.live import auc_text
from headrace.jobs.progress import Progress

_READ = """\
from headrace import storage
table = storage.open("{table}")
print(table.num_rows, "rows in", len(table.files), "files, version", table.version)
rows = table.scan(columns={columns}{filter})
print(rows.to_table().slice(0, 5).to_pylist())"""


@dataclass(frozen=True)
class Summary:
    """The figures of a finished run; ``produced`` counts events, ``seconds`` run from the first event sent."""

    produced: int
    progress: Progress
    table: Path
    event_id: str
    log: Path
    seconds: float
    peak_memory_bytes: int
    store_bytes: int
    parquet_bytes: int

    def text(self) -> str:
        """The summary as plain text."""
        total = self.progress.total
        lost = self.produced - total.events
        reasons = sorted(total.reasons.items(), key=lambda item: (-item[1], item[0]))
        lines = [
            f"{self.produced:,} events produced = {total.stored:,} stored + {total.dead:,} dead + {total.late:,} late + "
            f"{total.duplicates:,} duplicates"
            + (f" + {total.forgotten:,} of forgotten persons" if total.forgotten else "")
            + (f" + {lost:,} not read yet" if lost else ""),
            f"{self.seconds:.0f} s, {total.events / max(self.seconds, 1e-9):,.0f} events/s, "
            f"peak memory {self.peak_memory_bytes / 2**30:.1f} GiB (driver, workers, broker and this process)",
            *_last_window(self.progress),
            *_last_clicks(self.progress),
            f"AUC since the start, with what the empty model said: {auc_text(self.progress)}",
            f"table: {self.table} ({self.store_bytes / 1e6:.1f} MB; the same rows as Parquet-zstd: "
            f"{self.parquet_bytes / 1e6:.1f} MB)",
            "dead letters: " + (", ".join(f"{name} {count}" for name, count in reasons) or "none"),
            f"log: {self.log}",
            "",
            "read it from Python:",
            "",
            *(
                "    " + line
                for line in read_lines(
                    self.table, self.event_id, self.progress.metrics is not None
                ).splitlines()
            ),
        ]
        return "\n".join(lines)


def read_lines(table: Path, event_id: str, learned: bool) -> str:
    """Five lines of Python that read what was stored; with a learner, rows that a trained version predicted."""
    columns = (
        [event_id, "prediction", "baseline", "model_version"]
        if learned
        else [event_id, "_partition", "_offset"]
    )
    trained = ', filter=[("model_version", ">", 0)]' if learned else ""
    return _READ.format(table=table, columns=str(columns).replace("'", '"'), filter=trained)


def sizes(table: storage.Table) -> tuple[int, int]:
    """Bytes of a table's data files, and of the same rows as one Parquet file compressed with zstd."""
    ours = sum(file.bytes for file in table.files)
    with tempfile.TemporaryDirectory(dir=table.folder.parent) as folder:
        path = Path(folder) / "same-rows.parquet"
        with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
            for batch in table.scan():
                writer.write_batch(batch)
        return ours, path.stat().st_size


def _last_clicks(progress: Progress) -> list[str]:
    window = (progress.clicks or {}).get("window")
    if not window or window["model"]["auc"] is None:
        return []
    model, control = window["model"], window["baseline"]
    alarms = (progress.clicks or {})["alarms"]
    return [
        f"last window of {window['rows']:,} labels: AUC AdaptDHM {model['auc']:.3f}, the same without routing (K=1) {control['auc']:.3f}; "
        f"log loss {model['log_loss']:.4f}, {control['log_loss']:.4f}; {alarms} drift alarms"
    ]


def _last_window(progress: Progress) -> list[str]:
    window = (progress.metrics or {}).get("window")
    if not window or window["model"]["auc"] is None:
        return []
    model, baseline = window["model"], window["baseline"]
    return [
        f"last window of {window['rows']:,} labels: AUC model {model['auc']:.3f}, popularity {baseline['auc']:.3f}; "
        f"log loss model {model['log_loss']:.4f}, popularity {baseline['log_loss']:.4f}"
    ]
