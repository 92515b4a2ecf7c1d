"""The defects themselves, room by room; `mutants` says how they are planted and what kills them.

Each is a mistake that somebody could make, not a crash that anything would notice. The tests named are the ones meant to
notice it, few and quick; that others would fail too is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One planted defect.

    Attributes:
        name: what is wrong, in a few words.
        room: storage, streaming, learners or jobs.
        file: the module, relative to the root of the project.
        old: its text that is replaced, which must stand there exactly once.
        new: the defect.
        tests: ids of the tests that must notice.
    """

    name: str
    room: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


ENCODINGS = "tests/storage/test_encodings.py"
CORRUPTION = "tests/storage/test_corruption.py"
POWER = "tests/storage/test_power_loss.py"

STORAGE = (
    Mutant(
        "the unpack kernel loses a bit that lies in the next word",
        "storage",
        "storage/encodings/bitpack.py",
        "if (bit & 63) + width > 64:\n                over =",
        "if (bit & 63) + width > 65:\n                over =",
        (
            f"{ENCODINGS}::test_kernel_equals_twin_and_plain_python[unpack-8]",
            f"{ENCODINGS}::test_every_width",
        ),
    ),
    Mutant(
        "the numpy twin of unpack shifts the next word by one too few",
        "storage",
        "storage/encodings/bitpack.py",
        "(np.uint64(63) - shift)[:, None]) << np.uint64(1)",
        "(np.uint64(62) - shift)[:, None]) << np.uint64(1)",
        (f"{ENCODINGS}::test_every_width[numpy-33]",),
    ),
    Mutant(
        "a run ends one value early",
        "storage",
        "storage/encodings/rle.py",
        "changes = np.flatnonzero(stored[1:] != stored[:-1]) + 1",
        "changes = np.flatnonzero(stored[1:] != stored[:-1])",
        (f"{ENCODINGS}::test_bytes_equal_the_oracle_and_come_back",),
    ),
    Mutant(
        "the hash of a page is not verified",
        "storage",
        "storage/reader.py",
        "if got != expected:\n            fail(",
        "if False:\n            fail(",
        (f"{CORRUPTION}::test_bit_flips_everywhere",),
    ),
    Mutant(
        "the hash of a leaf of the footer is not verified",
        "storage",
        "storage/footer.py",
        "if got != expected:\n                offset =",
        "if False:\n                offset =",
        (f"{CORRUPTION}::test_bit_flips_everywhere",),
    ),
    Mutant(
        "a data file is not synced",
        "storage",
        "storage/writer.py",
        "durable.sync_file(self._file.fileno())",
        "self._file.fileno()",
        (POWER,),
    ),
    Mutant(
        "the folder of staged files is not synced",
        "storage",
        "storage/table.py",
        "        durable.sync_dir(path.parent)\n        return DataFile(",
        "        return DataFile(",
        (POWER,),
    ),
    Mutant(
        "the folder of manifests is not synced before a commit returns",
        "storage",
        "storage/log.py",
        "durable.publish_exclusive(temporary, final)\n            durable.sync_dir(self.folder)",
        "durable.publish_exclusive(temporary, final)",
        (POWER,),
    ),
    Mutant(
        "a manifest or an attachment is published before its bytes are synced",
        "storage",
        "storage/durable.py",
        "        sync_file(fd)\n",
        "        pass\n",
        (POWER,),
    ),
    Mutant(
        "a manifest replaces the one that another writer published",
        "storage",
        "storage/durable.py",
        "    os.link(temporary, final)",
        "    final.unlink(missing_ok=True)\n    os.link(temporary, final)",
        (f"{POWER}::test_one_of_two_writers_gets_a_version_and_the_other_the_next",),
    ),
    Mutant(
        "a batch that comes again is committed again",
        "storage",
        "storage/table.py",
        "if key is None or (version := self._listing().keys.get(tuple(key))) is None:",
        "if key is None or (version := self._listing().keys.get(tuple(key))) is None or version < self.version:",
        ("tests/storage/test_tables.py::test_a_key_survives_an_overwrite",),
    ),
)

MASKS, DECODE = "tests/streaming/test_masks.py", "tests/streaming/test_decode.py"

STREAMING = (
    Mutant(
        "the gate lets everything pass",
        "streaming",
        "streaming/contracts/masks.py",
        "return Verdict(pa.array(per_row == 0),",
        "return Verdict(pa.array(per_row >= 0),",
        (f"{MASKS}::test_masks_judge_like_the_twin",),
    ),
    Mutant(
        "an upper bound is exclusive",
        "streaming",
        "streaming/contracts/masks.py",
        "pc.less_equal(v.values, high)",
        "pc.less(v.values, high)",
        (MASKS,),
    ),
    Mutant(
        "NaN passes a bound",
        "streaming",
        "streaming/contracts/masks.py",
        "if inside and (not v.column.is_float or _finite(v) is None):",
        "if inside:",
        (MASKS,),
    ),
    Mutant(
        "a pattern need only match the beginning",
        "streaming",
        "streaming/contracts/masks.py",
        r'rf"\A(?:{body})\z"',
        r'rf"\A(?:{body})"',
        (f"{MASKS}::test_single_rules",),
    ),
)

CLICK_MODEL = "tests/learners/test_click_model.py"

LEARNERS = (
    Mutant(
        "a learning rate falls before its step and not after",
        "learners",
        "streaming/learners/kernels.py",
        "(root - before) / alpha",
        "(before - root) / alpha",
        (f"{CLICK_MODEL}::test_it_is_the_algorithm_of_the_paper",),
    ),
)

JOBS = (
    Mutant(
        "rejected rows take part in the draw of the sample like others",
        "jobs",
        "jobs/sample.py",
        "kept = order[: self._rejected + self._rows]",
        "kept = order[: self._rows]",
        ("tests/jobs/test_sample.py",),
    ),
)

MUTANTS = STORAGE + STREAMING + LEARNERS + JOBS
