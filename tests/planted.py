"""The defects themselves, room by room; `mutants` says how they are planted and what kills them.

Each is a mistake that somebody could make, not a crash that anything would notice. The tests named are the ones meant to
notice it, few and quick; that others would fail too is not looked at.
"""

from __future__ import annotations

from .mutant import Mutant
from .planted_ctr import CLICKING
from .planted_encodings import ENCODED
from .planted_forgetting import FORGETTING
from .planted_recommender import RECOMMENDING
from .planted_tables import KEEPING

ENCODINGS = "tests/storage/test_encodings.py"
CORRUPTION = "tests/storage/test_corruption.py"
POWER = "tests/storage/test_power_loss.py"
TABLES = "tests/storage/test_tables.py"

IHOMER = "tests/learners/ihomer/test_model.py"

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
        "storage/fetch.py",
        "if got != expected:\n        place.fail(",
        "if False:\n        place.fail(",
        (f"{CORRUPTION}::test_bit_flips_everywhere",),
    ),
    Mutant(
        "the hash of a leaf of the footer is not verified",
        "storage",
        "storage/leaves.py",
        'if blake3(data).digest(16) != expected:\n                raise self._wrong(f"leaf {at}"',
        'if False:\n                raise self._wrong(f"leaf {at}"',
        (f"{CORRUPTION}::test_bit_flips_everywhere",),
    ),
    Mutant(
        "a data file is not synced",
        "storage",
        "storage/writer.py",
        "durable.sync_file(self._file.fileno())\n        self._file.close()",
        "self._file.fileno()\n        self._file.close()",
        (POWER,),
    ),
    Mutant(
        "the folder of staged files is not synced",
        "storage",
        "storage/staging.py",
        "        found = finish(staging)\n    table._log.store.sync(DATA)\n",
        "        found = finish(staging)\n",
        (POWER,),
    ),
    Mutant(
        "the folder of manifests is not synced before a commit returns",
        "storage",
        "storage/stores.py",
        "durable.publish_exclusive(temporary, final)\n            durable.sync_dir(final.parent)",
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
        "a folder found is taken for durable",
        "storage",
        "storage/durable.py",
        "    elif not os.access(folder.parent, os.W_OK):\n",
        "    else:\n",
        (f"{POWER}::test_what_a_dead_writer_did_not_sync_the_next_one_does",),
    ),
    Mutant(
        "a schema found is taken for durable",
        "storage",
        "storage/log.py",
        "            self.store.sync(FOLDER)  # one found here",
        "            pass  # one found here",
        ("tests/storage/test_durability.py::test_names_found_are_synced_like_names_made",),
    ),
    Mutant(
        "a first writer that came second believes it made the table",
        "storage",
        "storage/beginning.py",
        "    if not Log(planned.path).publish(first):\n        raise _exists(planned.path)\n",
        "    Log(planned.path).publish(first)\n",
        (f"{TABLES}::test_of_first_writers_at_once_one_makes_the_table",),
    ),
    Mutant(
        "a first writer that came second leaves its file in the other one's table",
        "storage",
        "storage/beginning.py",
        "            inside(planned.path, file.path, DATA).unlink()\n",
        "            pass\n",
        (f"{TABLES}::test_of_first_writers_at_once_one_makes_the_table",),
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
        "storage/committing.py",
        "return manifests.commit_of(found, table.path, replayed=True)",
        "return None",
        (f"{TABLES}::test_a_key_commits_once",),
    ),
)

MASKS, DEDUPE, JOINS = (
    "tests/streaming/test_masks.py",
    "tests/streaming/test_dedupe.py",
    "tests/streaming/test_joins.py",
)

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
    Mutant(
        "what was seen before is new",
        "streaming",
        "streaming/dedupe.py",
        "candidate = ~late & ~seen.contains(ids, watermark_us)",
        "candidate = ~late",
        (DEDUPE,),
    ),
    Mutant(
        "what comes twice in one batch is new twice",
        "streaming",
        "streaming/dedupe.py",
        "fresh[rows[_first(ids.take(pa.array(rows)))]] = True",
        "fresh[rows] = True",
        (DEDUPE,),
    ),
    Mutant(
        "what is too late is taken for fresh",
        "streaming",
        "streaming/dedupe.py",
        "at < watermark_us - lateness_us",
        "at < watermark_us - 2 * lateness_us",
        (DEDUPE,),
    ),
    Mutant(
        "an impression whose window has not ended is not clicked",
        "streaming",
        "streaming/joins.py",
        'np.searchsorted(watermarks, segment.ends, side="right")',
        'np.searchsorted(watermarks, segment.ends, side="left")',
        (JOINS,),
    ),
    Mutant(
        "a click counts after the window has ended",
        "streaming",
        "streaming/joins.py",
        "            alive &= segment.ends[row] >= watermarks[at]\n",
        "",
        (JOINS,),
    ),
    Mutant(
        "a click counts for an impression that comes after it",
        "streaming",
        "streaming/joins.py",
        "segment.waiting[row] & (segment.arrival[row] < state.arrived + at)",
        "segment.waiting[row].copy()",
        (JOINS,),
    ),
)

CLICK_MODEL, METRICS, LOOP = (
    "tests/learners/test_click_model.py",
    "tests/streaming/test_metrics.py",
    "tests/streaming/test_loop.py",
)
PREQUENTIAL = "tests/learners/test_prequential.py"

SCORE = "        self.metrics.update(prediction, baseline, label, resolved.column(_DOMAIN))\n"
LEARN = """\
        packed = resolved.column(_IDS)
        width = self.task.features.width
        start = packed.offset * width
        ids = np.frombuffer(packed.buffers()[1], dtype=np.uint32)[start : start + len(packed) * width]
        rates = self.popularity.learn_hashed(resolved.column(_ITEM).to_numpy(), label)
        self.model.learn(ids.reshape(-1, width), label, logit(rates))
"""
PREDICT_ANEW = "        prediction = self.model.predict(ids.reshape(-1, width), logit(rates))\n"

LEARNERS = (
    Mutant(
        "the AUC takes positives for negatives",
        "learners",
        "streaming/metrics.py",
        "clicked = labels == 1",
        "clicked = labels == 0",
        (METRICS,),
    ),
    Mutant(
        "the AUC counts ties as lost",
        "learners",
        "streaming/metrics.py",
        "(below + 0.5 * self.negatives)",
        "(below + 0.0 * self.negatives)",
        (METRICS,),
    ),
    Mutant(
        "a version is published under the number of the one before",
        "learners",
        "streaming/loop.py",
        "self.version += 1",
        "self.version += 0",
        (LOOP,),
    ),
    Mutant(
        "a prediction by a version that is not published yet is scored",
        "learners",
        "streaming/loop.py",
        "newest > self.version:",
        "newest > self.version + 1:",
        (f"{LOOP}::test_a_prediction_of_a_version_not_published_yet_is_refused",),
    ),
    Mutant(
        "rows are learnt first and predicted anew for their score",
        "learners",
        "streaming/loop.py",
        SCORE + LEARN,
        LEARN + PREDICT_ANEW + SCORE,
        (f"{PREQUENTIAL}::test_permuted_labels_leave_nothing_to_learn",),
    ),
    Mutant(
        "thresholds are taken from the rows that are yet to be decided",
        "learners",
        "streaming/learners/ihomer/core.py",
        "steps.decide_rows(self.cuts, z, said)",
        "steps.decide_rows(self.cuts._replace(cut=np.full(self.labels, 4.0 * np.median(z) + 32.0)), z, said)",
        (f"{IHOMER}::test_a_row_is_predicted_the_same_whatever_comes_with_it",),
    ),
    Mutant(
        "the scaler is fitted by what is only predicted",
        "learners",
        "streaming/learners/ihomer/core.py",
        "scaled = self.scaled(rows, keep=False)",
        "scaled = self.scaled(rows, keep=True)",
        (f"{IHOMER}::test_what_river_checks_of_other_classifiers_holds_too[plain]",),
    ),
    Mutant(
        "a feature that was first met by a prediction is never learnt",
        "learners",
        "streaming/learners/ihomer/rows.py",
        "        if learning:  # what a prediction does not know, learning has to add\n            self._last =",
        "        if True:\n            self._last =",
        (f"{IHOMER}::test_dicts_without_zeros_predict_what_whole_rows_do[plain]",),
    ),
    Mutant(
        "labels share the counts of their thresholds",
        "learners",
        "streaming/learners/ihomer/thresholds.py",
        "cuts.positive[label, at] += 1",
        "cuts.positive[0, at] += 1",
        ("tests/learners/ihomer/test_recipe.py::test_a_count_of_one_label_is_no_other_label_s",),
    ),
    Mutant(
        "a merge of label clusters loses a side",
        "learners",
        "streaming/learners/ihomer/label_odac.py",
        "sorted(label for members in before for label in members)",
        "sorted(label for members in before[:1] for label in members)",
        (
            "tests/learners/ihomer/test_label_odac.py::test_after_every_row_each_label_is_in_exactly_one_cluster",
        ),
    ),
    Mutant(
        "a cluster learner loses the columns of its clusters when they change",
        "learners",
        "streaming/learners/ihomer/clustered.py",
        "mine[...] = theirs[..., heirs]",
        "mine[...] = mine",
        ("tests/learners/ihomer/test_drift.py::test_a_restructured_learner_of_clusters_keeps_every_column",),
    ),
    Mutant(
        "an alarm alone replaces a learner",
        "learners",
        "streaming/learners/ihomer/watching.py",
        "if theirs - mine > bound:",
        "if True:",
        ("tests/learners/ihomer/test_drift.py::test_the_bound_decides",),
    ),
    Mutant(
        "a learning rate falls before its step and not after",
        "learners",
        "streaming/learners/kernels.py",
        "(root - before) / alpha",
        "(before - root) / alpha",
        (f"{CLICK_MODEL}::test_it_is_the_algorithm_of_the_paper",),
    ),
)

STAGE, PIPELINE, KILL = "tests/jobs/test_stage.py", "tests/jobs/test_pipeline.py", "tests/jobs/test_kill.py"

JOBS = (
    Mutant(
        "a dead letter does not say why",
        "jobs",
        "jobs/dead_letters.py",
        'REASON: ",".join(reasons)',
        'REASON: ""',
        (STAGE,),
    ),
    Mutant(
        "rejected rows are left out of the second opinion",
        "jobs",
        "jobs/stage.py",
        "drawn[~verdict.keep.to_numpy(zero_copy_only=False)] = 0",
        "drawn[~verdict.keep.to_numpy(zero_copy_only=False)] = 2**64 - 1",
        (STAGE,),
    ),
    Mutant(
        "late events are counted but not sent on",
        "jobs",
        "jobs/stage.py",
        "for index in np.flatnonzero(fates.late):",
        "for index in ():",
        (STAGE,),
    ),
    Mutant(
        "an event with the time of another century makes all later ones late",
        "jobs",
        "jobs/stage.py",
        "        ahead = keep & self._ahead(segment, rows)\n",
        "        ahead = keep & False\n",
        (STAGE,),
    ),
    Mutant(
        "a task forgets what the table holds",
        "jobs",
        "jobs/seen.py",
        'seen.add(batch.column("id"), batch.column("time"))',
        'seen.add(batch.column("id")[:0], batch.column("time")[:0])',
        (STAGE,),
    ),
    Mutant(
        "a restart forgets the oldest impression that waits",
        "jobs",
        "jobs/linear.py",
        "wanted = chunk.column(OFFSET).to_numpy() >= offsets.get(partition, np.inf)",
        "wanted = chunk.column(OFFSET).to_numpy() > offsets.get(partition, np.inf)",
        (f"{PIPELINE}::test_a_restart_goes_on_where_it_stopped_and_learns_the_same",),
    ),
    Mutant(
        "what waits for its label comes back in the order of compacted files",
        "jobs",
        "jobs/linear.py",
        '[(OFFSET, "ascending"), (event_time, "ascending")]',
        '[(OFFSET, "descending")]',
        (f"{PIPELINE}::test_compaction_between_two_starts_changes_nothing",),
    ),
    Mutant(
        "ids in compacted files are not asked for",
        "jobs",
        "jobs/seen.py",
        "            return self._gather() if self._watermarks_us else []\n",
        "            return []\n",
        (f"{STAGE}::test_what_comes_again_is_stored_once_also_in_a_later_batch",),
    ),
    Mutant(
        "files that were compacted and collected since are read all the same",
        "jobs",
        "jobs/seen.py",
        "        if not all(Path(file.path).exists() for file in self._files):\n",
        "        if self._files is None:\n",
        (f"{STAGE}::test_what_comes_again_is_stored_once_also_in_a_later_batch",),
    ),
    Mutant(
        "a batch that Spark replays is processed again",
        "jobs",
        "jobs/microbatch.py",
        "return batch_id <= done",
        "return False",
        (KILL,),
    ),
    Mutant(
        "learners publish a batch on which the second opinion disagrees",
        "jobs",
        "jobs/microbatch.py",
        "        _require_agreement(gate_json, after)\n",
        "",
        (f"{PIPELINE}::test_a_disagreement_stops_the_query_before_the_commit",),
    ),
    Mutant(
        "a task's letters are not waited for",
        "jobs",
        "jobs/stage.py",
        "        self._letters.close()\n",
        "",
        (STAGE,),
    ),
    Mutant(
        "rejected rows take part in the draw of the sample like others",
        "jobs",
        "jobs/sample.py",
        "kept = order[: self._rejected + self._rows]",
        "kept = order[: self._rows]",
        ("tests/jobs/test_sample.py",),
    ),
)

TWIN = "tests/scheduler/test_twin.py::test_java_and_python_order_200_random_traces_alike"
MODEL = "tests/scheduler/test_model.py"
SHARED = "tests/scheduler/test_spark.py"
JVM = "scheduler/jvm/src/headrace/scheduler"

SCHEDULER = (
    Mutant(
        "the latest deadline goes first",
        "scheduler",
        f"{JVM}/Policy.java",
        "thenComparingDouble(e -> e.deadline)",
        "thenComparingDouble(e -> -e.deadline)",
        (TWIN,),
    ),
    Mutant(
        "a user's end does not know its weight",
        "scheduler",
        f"{JVM}/SelfQueue.java",
        "double end = flow.end + grown / flow.weight;",
        "double end = flow.end + grown;",
        (TWIN,),
    ),
    Mutant(
        "virtual time stands still",
        "scheduler",
        f"{JVM}/FairQueue.java",
        "    virtual.serve(credit);\n",
        "",
        (TWIN,),
    ),
    Mutant(
        "an error of the queue is thrown at Spark",
        "scheduler",
        f"{JVM}/FairPool.java",
        "    broken = true;\n",
        "    broken = true;\n    if (cause != null) throw new IllegalStateException(cause);\n",
        ("tests/scheduler/test_elsewhere.py::test_whatever_is_wrong_is_told_once_and_jobs_are_done",),
    ),
    Mutant(
        "a thread stays its last user's",
        "scheduler",
        "scheduler/identity.py",
        "        for name, value in before.items():\n",
        "        for name, value in ():\n",
        (f"{SHARED}::test_threads_work_for_the_user_that_started_them_and_for_no_other",),
    ),
    Mutant(
        "the model ignores weights",
        "scheduler",
        "scheduler/virtual.py",
        "end = flow.end + grown / flow.weight",
        "end = flow.end + grown",
        (f"{MODEL}::test_weights_of_two_to_one_share_two_to_one",),
    ),
    Mutant(
        "a cap counts no running task",
        "scheduler",
        "scheduler/model.py",
        "user.tokens -= service",
        "user.tokens -= 0",
        (f"{MODEL}::test_a_capped_user_stays_below_its_cap_in_every_window",),
    ),
    Mutant(
        "a job that grows is left half done",
        "scheduler",
        "scheduler/virtual.py",
        "rest > 2 * job.ranked",
        "job.work > 2 * job.ranked",
        (f"{MODEL}::test_jobs_thought_far_too_small_are_still_finished_one_by_one",),
    ),
    Mutant(
        "what has begun gives way to what is like it",
        "scheduler",
        "scheduler/model.py",
        "WAVERS = 0.5",
        "WAVERS = 0.0",
        (f"{MODEL}::test_what_has_begun_is_finished_before_what_is_like_it",),
    ),
    Mutant(
        "what has begun never gives way",
        "scheduler",
        "scheduler/model.py",
        "other.deadline < begun.deadline - wavers",
        "False",
        (f"{MODEL}::test_what_has_begun_is_put_aside_for_what_is_due_much_earlier",),
    ),
)

MUTANTS = (
    STORAGE
    + KEEPING
    + ENCODED
    + FORGETTING
    + STREAMING
    + LEARNERS
    + RECOMMENDING
    + CLICKING
    + JOBS
    + SCHEDULER
)

__all__ = ["MUTANTS", "Mutant"]
