"""What learners have of persons whose rows are erased, and what is done about it: forgotten exactly, aged out, or said.

In the flow: after a table's rows are gone (``erasing``); a learner's snapshot travels in its commits as an attachment. The recommender
has a row per id, so a person's row, optimiser state and name are cleared and a new snapshot is committed; the ones before it go with
their versions. What hashed weights and trees have learnt from a person cannot be taken out of them: the receipt says that it
is approximate, and why. A job that is running holds its own copy; it has to be started again, from the new snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace import storage
from headrace.jobs.progress import LEARNER, RECOMMENDER, TAGS, last_attachment, last_commit
from headrace.storage.receipts import Reach
from headrace.storage.subjects import Id

_LEARNT = {
    LEARNER: "weights of the click model are shared by all who hash to them; a share of one person remains until newer events outweigh it",
    TAGS: "trees hold counts of all persons together; they are replaced as drift and age demand",
}


def forget_in_learners(table: storage.Table, ids: Sequence[Id]) -> tuple[Reach, ...]:
    """Forget persons in the newest snapshots of a table; what a receipt says about it."""
    found = [
        Reach(f"snapshot {name!r}", "approximate", note=note)
        for name, note in _LEARNT.items()
        if last_attachment(table, name) is not None
    ]
    kept = last_attachment(table, RECOMMENDER)
    if kept is not None:
        found.append(_recommender(table, kept, ids))
    return tuple(found)


def _recommender(table: storage.Table, kept: bytes, ids: Sequence[Id]) -> Reach:
    try:
        from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender
    except ModuleNotFoundError as error:
        return Reach(
            "snapshot 'recommender'",
            "approximate",
            note=f"nothing was done: {error.name} is not installed here; erase again where headrace[torch] is",
        )
    model = DSLRecommender.from_bytes(kept)
    had = sum(model.forget(user=one) for one in ids)
    commit = last_commit(table)
    if (
        had and commit is not None
    ):  # the rest of what it kept goes along, since a job goes on from the newest one
        others = {one.name: commit.attachment(one.name) for one in commit.attachments}
        table.commit([], attachments={**others, RECOMMENDER: model.to_bytes()})
    return Reach(
        "snapshot 'recommender'",
        "exact",
        note=f"{had} embedding rows and their optimiser state cleared; earlier snapshots go with their versions, by headrace gc",
    )
