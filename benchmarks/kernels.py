"""Table ``kernels``: how fast our compiled loops write what they decode, against copying as many bytes."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.case import OURS, Case, Contestant, Metric, Profile, Repetition, Table
from benchmarks.formats import OURS_PACKAGES, repetitions

OUT_BYTES = 512 * 1024
"""With what it is made from, it fits the second-level cache of a core."""
KERNELS = (
    *(f"unpack {width} bits" for width in (4, 7, 12, 13, 20, 31)),
    "delta",
    "byte split",
    "bf16",
    "dictionary u8",
    "fp16",
    "varint",
    "dictionary unpack",
    "sequence views",
    "sequence gather",
)


@dataclass(frozen=True)
class _Rate:
    """GB/s of one kernel."""

    name: str

    def __call__(self, repetition: Repetition) -> float:
        return OUT_BYTES / repetition.values[self.name] / 1e9


def cases(profile: Profile) -> tuple[Case, ...]:
    """One: all kernels take their turns in one process, memcpy in another."""
    return (
        Case(
            name="kernels",
            contestants=(
                Contestant(OURS, "benchmarks.runners.kernels_ours", packages=OURS_PACKAGES),
                Contestant("memcpy", "benchmarks.runners.memcpy", packages=("numpy",)),
            ),
            metrics=tuple(Metric(f"[kernel {name}]", "GB/s", "higher", _Rate(name)) for name in KERNELS),
            repetitions=3 * repetitions(profile),
            discard=1,
            expected_s=1.0,
            args={"out_bytes": OUT_BYTES, "seed": 0, "calls": 300, "kernels": list(KERNELS)},
        ),
    )


TABLE = Table(
    name="kernels",
    title="Compiled kernels against memcpy, half a MiB at a time in the second-level cache",
    cases=cases,
    notes=(
        "GB/s of decoded output, one thread; ours / peer is the share of memcpy's speed. Each kernel is called past its encoding's",
        "checks, for one page at a time. dictionary u8: one-byte codes, 200 entries; dictionary unpack: codes of eight bits unpacked too.",
    ),
)
