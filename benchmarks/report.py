"""From cells to rows, and rows to the terminal: nothing is left out, losses and failures least of all.

The value of a row is that of the least disturbed repetition: the minimum where lower is better, the maximum where higher is.
Spread is (max − min) / min over the counted repetitions. ``ratio_to_best_peer`` is ours divided by the best peer's
value: below 1 is good where lower is better, above 1 where higher is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Literal

from benchmarks.case import OURS, Case, Json, Metric, Parts, Profile, Repetition
from benchmarks.results import Cell

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Row:
    """One line of the table; ``as_json`` is its public form."""

    case: str
    ours: float | None
    peers: dict[str, float | None]
    unit: str
    better: Better
    ratio_to_best_peer: float | None
    spread: dict[str, float | None]
    repetitions: dict[str, int]
    failures: dict[str, str]
    verification: str
    profile: str
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Json]:
        return asdict(self)

    @property
    def loses(self) -> bool:
        """Whether ours failed or a peer is better."""
        if self.ours is None:
            return True
        ratio = self.ratio_to_best_peer
        return ratio is not None and (ratio > 1 if self.better == "lower" else ratio < 1)


def best(values: Sequence[float], better: Better) -> float:
    """The least disturbed one."""
    return min(values) if better == "lower" else max(values)


def spread(values: Sequence[float]) -> float | None:
    """(max − min) / min; ``None`` for fewer than two values or a minimum of 0."""
    if len(values) < 2 or min(values) == 0:
        return None
    return (max(values) - min(values)) / min(values)


def ratio_to_best(ours: float | None, peers: Sequence[float | None], better: Better) -> float | None:
    """Ours divided by the best peer; ``None`` where one side is missing or the peer's value is 0."""
    present = [peer for peer in peers if peer is not None]
    if ours is None or not present or best(present, better) == 0:
        return None
    return ours / best(present, better)


def rows_of(case: Case, cells: Mapping[str, Cell], profile: Profile) -> list[Row]:
    """All rows of a case: its metrics, then where ours spends its time."""
    versions = {name: dict(cell.key.get("versions", {})) for name, cell in cells.items()}
    rows = [_metric_row(case, metric, cells, profile, versions) for metric in case.metrics]
    ours = cells[OURS]
    if case.parts is not None and ours.repetitions and ours.failure is None:
        rows += _part_rows(case, case.parts, ours, profile, versions)
    return rows


def _metric_row(
    case: Case,
    metric: Metric,
    cells: Mapping[str, Cell],
    profile: Profile,
    versions: dict[str, dict[str, str]],
) -> Row:
    measured = {
        name: [metric.of(repetition) for repetition in cell.repetitions] if cell.failure is None else []
        for name, cell in cells.items()
    }
    values = {name: best(all_, metric.better) if all_ else None for name, all_ in measured.items()}
    ours = values.pop(OURS)
    return Row(
        case=metric.name,
        ours=ours,
        peers=values,
        unit=metric.unit,
        better=metric.better,
        ratio_to_best_peer=ratio_to_best(ours, list(values.values()), metric.better),
        spread={name: spread(all_) for name, all_ in measured.items()},
        repetitions={name: len(all_) for name, all_ in measured.items()},
        failures={name: cell.failure for name, cell in cells.items() if cell.failure is not None},
        verification=case.verification,
        profile=profile.value,
        versions=versions,
    )


def _part_rows(
    case: Case, parts: Parts, ours: Cell, profile: Profile, versions: dict[str, dict[str, str]]
) -> list[Row]:
    cheapest = min(ours.repetitions, key=lambda repetition: repetition.cpu_s)
    rows = []
    for name, seconds in _seconds_by_part(parts, cheapest).items():
        rows.append(
            Row(
                case=f"{parts.name}: {name}",
                ours=seconds * parts.scale / cheapest.values[parts.per],
                peers={},
                unit=parts.unit,
                better="lower",
                ratio_to_best_peer=None,
                spread={OURS: None},
                repetitions={OURS: 1},
                failures={},
                verification=case.verification,
                profile=profile.value,
                versions={OURS: versions[OURS]},
            )
        )
    return rows


def _seconds_by_part(parts: Parts, repetition: Repetition) -> dict[str, float]:
    cpu = {name: repetition.parts.get(name, 0.0) for name in parts.cpu}
    wall = {f"{name} (wall)": repetition.parts.get(name, 0.0) for name in parts.wall}
    return {**cpu, parts.rest: repetition.cpu_s - sum(cpu.values()), **wall}


def table_text(rows: Sequence[Row]) -> str:
    """The rows for people: one line per contestant, failures with their reason below."""
    lines: list[tuple[str, ...]] = [("case", "contestant", "best", "spread", "n", "ours / peer")]
    for row in rows:
        numbers = (OURS, *_numbers(row, OURS, row.ours), "")
        if not row.peers:
            lines.append((f"{row.case}, {row.unit}", *numbers))
            continue
        lines.append((row.case, *numbers))
        about = f"  {row.unit}, {row.better} is better"
        for name, value in row.peers.items():
            lines.append((about, name, *_numbers(row, name, value), _against(row, value)))
            about = ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = [
        "  ".join(
            text.rjust(width) if column in (2, 3, 4) else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    ]
    reasons: dict[str, str] = {}
    for row in rows:
        for name, why in row.failures.items():
            reasons.setdefault(f"{name} failed: {why}", row.case)  # told once for all its rows
    return "\n".join([*table, *(f"{case}: {reason}" for reason, case in reasons.items())])


def _numbers(row: Row, name: str, value: float | None) -> tuple[str, str, str]:
    if value is None:
        return "failed", "", ""
    rough = row.spread.get(name)
    return _short(value), "" if rough is None else f"{rough:.0%}", str(row.repetitions[name])


def _against(row: Row, peer: float | None) -> str:
    ratio = ratio_to_best(row.ours, [peer], row.better)
    if ratio is None:
        return ""
    won = ratio <= 1 if row.better == "lower" else ratio >= 1
    return f"{ratio:.2f} {'wins' if won else 'LOSES'}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t for a 95 % interval, by number of seeds."""


def interval_text(differences: Sequence[float]) -> str:
    """The 95 % interval of the mean of paired differences; of one difference there is none."""
    if len(differences) < 2:
        return "-"
    half = T95.get(len(differences), 2.0) * stdev(differences) / len(differences) ** 0.5
    return f"{mean(differences) - half:+.4f}..{mean(differences) + half:+.4f}"
