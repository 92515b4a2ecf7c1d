"""Planted defects of forgetting: what is left behind, who comes back, what is believed; see ``planted``."""

from __future__ import annotations

from .mutant import Mutant

CHANNELS = "tests/storage/test_erased_channels.py"
LATE = "tests/storage/test_late_rows.py"
REQUESTS = "tests/storage/test_requests.py"
RECEIPTS = "tests/storage/test_receipts.py"
HISTORY = "tests/storage/test_erase_history.py"
MEDIA = "tests/storage/test_erase_media.py"
EPOCHS = "tests/jobs/test_erase_epochs.py"
RUNNING = "tests/jobs/test_train_recommender.py::test_a_job_that_runs_while_persons_are_erased_does_not_bring_them_back"
TAGGER = "test_the_tag_learner_lets_go_of_every_row_it_keeps"
CLICKS = "test_click_models_forget_rows_and_what_waits"
JOB = "tests/jobs/test_erase_job.py"

FORGETTING = (
    Mutant(
        "late events of forgotten persons become dead letters",
        "jobs",
        "jobs/stage.py",
        "        return rows.only(~gone)\n",
        "        return rows\n",
        ("tests/jobs/test_stage.py::test_of_a_forgotten_person_nothing_is_kept_and_no_letter_sent",),
    ),
    Mutant(
        "impressions of a forgotten person are learnt when their window ends",
        "learners",
        "streaming/learners/adapt_dhm/classifier.py",
        "        dropped = self.pending.drop(lambda rows: (rows.keys[:, place] == key).all(1))\n",
        "        dropped = 0\n",
        (f"{JOB}::{CLICKS}",),
    ),
    Mutant(
        "a job that runs while persons are erased commits its own copy of the model",
        "jobs",
        "jobs/forgetting.py",
        "        set_aside(table, read_progress(last.attachment(PROGRESS)).query_id)\n",
        "",
        (RUNNING,),
    ),
    Mutant(
        "the control of a click model remembers the forgotten",
        "jobs",
        "jobs/forgetting.py",
        "            renewed[name] = fresh\n",
        "            renewed[CLICKS if name == CLICKS_CONTROL else name] = fresh\n",
        (f"{JOB}::{CLICKS}",),
    ),
    Mutant(
        "the tag learner keeps its last rows of the forgotten",
        "learners",
        "streaming/learners/ihomer/core.py",
        "        return 0 if self.ensemble is None else self.ensemble.forget_rows()\n",
        "        return 0 if self.ensemble is None else self.ensemble.held\n",
        (f"{JOB}::{TAGGER}",),
    ),
    Mutant(
        "rows of the forgotten that wait for a full step of the tag learner are learnt",
        "learners",
        "streaming/learners/ihomer/tagging.py",
        "        self._waiting = []\n        return forgotten\n",
        "        return forgotten\n",
        (f"{JOB}::{TAGGER}",),
    ),
    Mutant(
        "any receipt of a file accounts for whatever became of it",
        "storage",
        "storage/epochs.py",
        "    return after in reached\n",
        "    return after in reached or bool(steps)\n",
        (f"{EPOCHS}::test_an_erasure_that_nobody_signed",),
    ),
    Mutant(
        "media that somebody else refers to become zeros too",
        "storage",
        "storage/erase_media.py",
        "        left = _without(ranges, _others(table, name, keys, entries))\n",
        "        left = _without(ranges, [])\n",
        (f"{MEDIA}::test_what_somebody_else_refers_to_stays",),
    ),
    Mutant(
        "what hidden rows referred to is not noted",
        "storage",
        "storage/erase.py",
        "known = known.owing(erase_media.referred_to(table, entry, keys))",
        "erase_media.referred_to(table, entry, keys)",
        (f"{MEDIA}::test_media_go_with_their_person",),
    ),
    Mutant(
        "columns that an older version alone names are kept",
        "storage",
        "storage/held.py",
        "        if families or media:\n",
        "        if media:\n",
        (f"{HISTORY}::test_columns_that_an_older_version_alone_names",),
    ),
    Mutant(
        "rows of a retention class go a day early",
        "storage",
        "storage/retention.py",
        "    begun = -(-np.asarray(since.fill_null(0)) // _DAY_US)",
        "    begun = np.asarray(since.fill_null(0)) // _DAY_US",
        (
            "tests/storage/test_retention.py::test_no_row_goes_early_and_none_outlives_its_period_by_a_day_and_the_grouping",
        ),
    ),
    Mutant(
        "items of rows that went stay in front of others'",
        "storage",
        "storage/runs.py",
        "    if items.n < last:",
        "    if items.n < 0:",
        ("tests/storage/test_runs.py::test_what_stays_is_what_arrow_s_filter_gives",),
    ),
    Mutant(
        "an entry of a dictionary that nobody else uses is kept",
        "storage",
        "storage/erasing.py",
        "            self._blank_entries(part, chunk.dictionary, unused)\n",
        "            pass\n",
        (f"{CHANNELS}::test_no_place_holds_an_erased_value",),
    ),
    Mutant(
        "smallest and largest values are kept",
        "storage",
        "storage/erasing.py",
        "] = of_page(after, node.type)",
        "] = of_page(before if len(rows) == 0 else _left(reader.decoded([page], at), Runs.without(np.zeros(page.n_rows, np.bool_)), node.type), node.type)",
        (f"{CHANNELS}::test_no_place_holds_an_erased_value",),
    ),
    Mutant(
        "spare room is not zeroed",
        "storage",
        "storage/erase_page.py",
        "    body += bytes(max(0, len(page.data) - NONCE_BYTES - len(body)))\n",
        "    body += page.data[NONCE_BYTES + len(body) :].tobytes()\n",
        (f"{CHANNELS}::test_spare_room_is_zeroed_when_a_page_shrinks",),
    ),
    Mutant(
        "the journal is kept",
        "storage",
        "storage/redo.py",
        "    journal.unlink()\n",
        "",
        (f"{CHANNELS}::test_no_place_holds_an_erased_value",),
    ),
    Mutant(
        "the denylist is ignored",
        "storage",
        "storage/staging.py",
        "            if late.any():\n",
        "            if False:\n",
        (f"{JOB}::test_erasing_while_the_stream_writes",),
    ),
    Mutant(
        "a file that waited for its commit is not looked at again",
        "storage",
        "storage/late_rows.py",
        "if self._cleared[path] < known.changed_at:",
        "if self._cleared[path] > known.changed_at:",
        (f"{LATE}::test_a_file_staged_before_an_erase_and_committed_after_it",),
    ),
    Mutant(
        "a request may be handed in twice",
        "storage",
        "storage/erase_requests.py",
        "    if name in seen:\n",
        "    if False:\n",
        (f"{REQUESTS}::test_what_may_not_be_done_is_refused_in_one_sentence",),
    ),
    Mutant(
        "a requester approves of himself",
        "storage",
        "storage/erase_requests.py",
        "approver not in asked or len(asked) > 1 for",
        "approver for",
        (f"{REQUESTS}::test_beyond_a_number_of_persons_a_second_key_must_sign",),
    ),
    Mutant(
        "holds are not looked at",
        "storage",
        "storage/erase_requests.py",
        "    if met:\n",
        "    if not met:\n        pass\n    elif False:\n",
        (f"{REQUESTS}::test_a_hold_refuses_the_whole_request_until_it_ends",),
    ),
    Mutant(
        "the log is not compared with its head",
        "storage",
        "storage/register.py",
        "        if not head.size <= len(lines) <= head.size + 1 or known != head.root:",
        "        if False:",
        (f"{RECEIPTS}::test_each_way_of_tampering_is_seen",),
    ),
    Mutant(
        "a proof may lead elsewhere",
        "storage",
        "storage/transparency.py",
        "    return not last and found == head\n",
        "    return not last\n",
        (f"{RECEIPTS}::test_inclusion_and_consistency_hold_for_every_tree_and_for_no_other",),
    ),
)
