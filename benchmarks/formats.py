"""The contestants of the tables that compare file formats, and the cases they are asked to run: see ``runners.cells``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.case import OURS, Case, Contestant, Json, Metric, Profile, Repetition

OURS_PACKAGES = ("headrace", "blake3", "numba", "numpy", "pyarrow")
PROFILES = ("size", "balanced")
FORMATS: dict[str, tuple[str, str, dict[str, Json]]] = {
    "parquet zstd-3": ("format_parquet", "pyarrow", {"tuned": False}),
    "parquet tuned": ("format_parquet", "pyarrow", {"tuned": True}),
    "orc zstd": ("format_orc", "pyarrow", {}),
    "ipc zstd": ("format_ipc", "pyarrow", {}),
    "lance 2.0": ("format_lance", "lance", {"version": "2.0", "zstd": False}),
    "lance 2.1": ("format_lance", "lance", {"version": "2.1", "zstd": False}),
    "lance 2.2 zstd": ("format_lance", "lance", {"version": "2.2", "zstd": True}),
    "vortex": ("format_vortex", "vortex", {"compact": False}),
    "vortex compact": ("format_vortex", "vortex", {"compact": True}),
    "polars-parquet": ("format_polars", "polars", {}),
}
"""Runner, environment and arguments by name. Lance 2.3, which calls itself unstable, is left out."""
ALL = (
    "parquet zstd-3",
    "parquet tuned",
    "orc zstd",
    "ipc zstd",
    "lance 2.1",
    "lance 2.2 zstd",
    "vortex",
    "vortex compact",
)
READERS = ("parquet zstd-3", "orc zstd", "ipc zstd", "lance 2.1", "vortex")

START_S = 1.0
"""Least that a turn is expected to take, for a case's share of a budget: its process starts, and its first answer is compared."""


@dataclass(frozen=True)
class Data:
    """A part of a data set, which becomes one file.

    Attributes:
        name: as ``data.ground`` makes it.
        part: names the columns in file names.
        columns: None is all.
        rows: of the data set.
    """

    name: str
    part: str
    columns: Sequence[str] | None
    rows: int

    @property
    def args(self) -> dict[str, Json]:
        return {
            "dataset": self.name,
            "part": self.part,
            "columns": None if self.columns is None else list(self.columns),
            "rows_of_data": self.rows,
        }


def contestants(
    names: Sequence[str], ours: Mapping[str, Json] | None = None, runner: str = "format_ours"
) -> tuple[Contestant, ...]:
    """Ours, then the formats called ``names``."""
    rivals = [
        Contestant(name, f"benchmarks.runners.{FORMATS[name][0]}", FORMATS[name][1], args=FORMATS[name][2])
        for name in names
    ]
    return (
        Contestant(OURS, f"benchmarks.runners.{runner}", packages=OURS_PACKAGES, args=dict(ours or {})),
        *rivals,
    )


def size_case(word: str, data: Data, *, names: Sequence[str] = ALL, skipped: str | None = None) -> Case:
    """Bytes of ``data`` as a file, ours in each profile; they do not vary, so each contestant writes once."""
    return Case(
        name=word.replace(" ", "-"),
        contestants=contestants(names),
        metrics=tuple(
            Metric(f"[{word}] profile {profile}", "MB", "lower", _Megabytes(f"bytes_{profile}"))
            for profile in PROFILES
        ),
        repetitions=1,
        expected_s=6.0 + data.rows / 20_000,
        args={**data.args, "op": "size", "profiles": list(PROFILES)},
        skipped=skipped,
    )


def timed_case(
    word: str,
    about: str,
    data: Data,
    args: Mapping[str, Json],
    *,
    names: Sequence[str],
    repetitions: int,
    expected_s: float,
    ours: Mapping[str, Json] | None = None,
    slug: str | None = None,
    sized: bool = True,
) -> Case:
    """One operation on the file of ``data``, ours as the balanced profile wrote it.

    Args:
        word: in brackets in the rows' names.
        about: follows it.
        args: ``op`` and what it needs.
        ours: arguments for ours alone.
        slug: the case's name; None makes it of ``word``.
        sized: whether the file's size is a row of its own; one case of a word says it.
    """
    metrics = [Metric(f"[{word}] {about}", "ms", "lower", _milliseconds)]
    if sized:
        metrics.append(Metric(f"[{word}] the file's size", "MB", "lower", _Megabytes("bytes")))
    return Case(
        name=slug or word.replace(" ", "-"),
        contestants=contestants(names, ours),
        metrics=tuple(metrics),
        repetitions=repetitions,
        discard=1,
        expected_s=max(expected_s, START_S),
        args={"calls": 1, "profile": "balanced", **data.args, **args},
    )


def repetitions(profile: Profile) -> int:
    """Counted turns of a timed case."""
    return {Profile.QUICK: 2, Profile.DEFAULT: 7, Profile.FULL: 15}[profile]


def _milliseconds(repetition: Repetition) -> float:
    return repetition.values["s"] * 1_000


@dataclass(frozen=True)
class _Megabytes:
    """Reads a count of bytes off a repetition."""

    value: str

    def __call__(self, repetition: Repetition) -> float:
        return repetition.values[self.value] / 1e6
