"""Defects of tables: listings, races, garbage collection, evolution, compaction, verification."""

from __future__ import annotations

from .mutant import Mutant

TABLES = "tests/storage/test_tables.py"
FAULTS = "tests/storage/test_faults.py"
CROWD = "tests/storage/test_crowd.py"
EVOLUTION = "tests/storage/test_evolution.py"
COMPACTION = "tests/storage/test_compaction.py"
VERIFY = "tests/storage/test_verify.py"

KEEPING = (
    Mutant(
        "a clock that is wrong is believed because a writer had it too",
        "storage",
        "storage/collecting.py",
        "        if since and noted - since > idle:\n",
        "        if False:\n",
        (f"{CROWD}::test_versions_expire_by_age_and_every_doubt_keeps_them",),
    ),
    Mutant(
        "files of a compaction are removed though it may have been published",
        "storage",
        "storage/compaction.py",
        "        except PlanOutdated:\n",
        "        except (PlanOutdated, OSError):\n",
        ("tests/storage/test_upkeep_in_stores.py::test_a_thousand_ambiguous_puts",),
    ),
    Mutant(
        "a filter of an evolved table compares codes",
        "storage",
        "storage/evolved.py",
        "        apart = not self.stored.keys().isdisjoint(tested)",
        "        apart = False and not self.stored.keys().isdisjoint(tested)",
        ("tests/storage/test_as_stored.py::test_after_evolution_too",),
    ),
    Mutant(
        "what is published and cannot be checked is said to have failed",
        "storage",
        "storage/log.py",
        "            return self._still_follows(manifest)\n        except OSError as error:\n",
        "            return self._still_follows(manifest)\n        except BlockingIOError as error:\n",
        ("tests/storage/test_upkeep_in_stores.py::test_every_request_fails_in_turn",),
    ),
    Mutant(
        "a listing that goes on from a known one keeps what was removed",
        "storage",
        "storage/listing.py",
        "        gone = set(step.removed)\n",
        "        gone = set[str]()\n",
        (f"{TABLES}::test_a_model_of_every_operation",),
    ),
    Mutant(
        "a span loses a file that came again under its own path",
        "storage",
        "storage/listing.py",
        "        mine = [(step.version, file) for file in step.added if file.path not in removed]\n        removed.update(step.removed)\n",
        "        removed.update(step.removed)\n        mine = [(step.version, file) for file in step.added if file.path not in removed]\n",
        (f"{EVOLUTION}::test_old_bytes_stay_and_every_version_reads_as_it_was",),
    ),
    Mutant(
        "a version counts though its number was collected",
        "storage",
        "storage/log.py",
        "        return self._still_follows(manifest)\n",
        "        return True\n",
        (f"{FAULTS}::test_a_stale_writer_cannot_bring_back_a_collected_version",),
    ),
    Mutant(
        "an unknown outcome is taken for a lost race",
        "storage",
        "storage/log.py",
        "        return found.transaction == manifest.transaction\n",
        "        return False\n",
        ("tests/storage/test_durability.py::test_a_link_that_worked_but_reported_an_error_is_recognised",),
    ),
    Mutant(
        "a file is taken though garbage collection may have removed it",
        "storage",
        "storage/committing.py",
        "    if old:\n        raise StagedTooLongAgo(",
        "    if False:\n        raise StagedTooLongAgo(",
        (f"{FAULTS}::test_a_file_that_is_still_there_but_too_old_is_refused",),
    ),
    Mutant(
        "a driver of an older epoch commits",
        "storage",
        "storage/committing.py",
        "    if fence is None or fence.epoch != epoch:\n",
        "    if fence is None:\n",
        (f"{FAULTS}::test_a_zombie_driver_is_fenced",),
    ),
    Mutant(
        "a compaction replaces files that another writer changed",
        "storage",
        "storage/committing.py",
        "        gone = [file.path for file in read if listed.get(file.path) != file]\n",
        "        gone = list[str]()\n",
        (f"{COMPACTION}::test_compaction_meets_others",),
    ),
    Mutant(
        "files of writers at work are collected",
        "storage",
        "storage/collecting.py",
        "    orphans = sorted((noted & present) - kept - gone)\n",
        "    orphans = sorted(present - kept - gone)\n",
        (f"{FAULTS}::test_files_staged_before_the_horizon_are_refused",),
    ),
    Mutant(
        "a clock that is years ahead is believed",
        "storage",
        "storage/collecting.py",
        "    if now - latest > idle:\n",
        "    if False:\n",
        (f"{CROWD}::test_versions_expire_by_age_and_every_doubt_keeps_them",),
    ),
    Mutant(
        "a new column shows what an older one of its name held",
        "storage",
        "storage/evolution.py",
        "        while stored in used:\n",
        "        while False:\n",
        (f"{EVOLUTION}::test_a_name_that_was_used_before_never_shows_old_values",),
    ),
    Mutant(
        "the best rows end with a row group",
        "storage",
        "storage/quality.py",
        "    return first + int(np.count_nonzero(values >= threshold))\n",
        "    return first\n",
        (f"{COMPACTION}::test_the_best_rows_are_a_prefix",),
    ),
    Mutant(
        "verify takes a page's hash for granted",
        "storage",
        "storage/verify.py",
        "            if blake3(data[begin:stop]).digest(16) != hashes[16 * at : 16 * at + 16]:\n",
        "            if False:\n",
        (f"{VERIFY}::test_whatever_is_wrong_is_said",),
    ),
)
"""See ``mutants`` for how they are planted."""
