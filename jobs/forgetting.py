"""What learners have of persons whose rows are erased, and what is done about it: forgotten exactly, aged out, or said.

In the flow: after a table's rows are gone (``erasing``); a learner's snapshot travels in its commits as an attachment. The recommender and
the AdaptDHM click model have a row per id, so a person's row, optimiser state and name are cleared, and what waits of them for its label is
dropped; the tag learner keeps its last rows without saying whose they are, so all of these go. New snapshots are committed; the ones
before go with their versions. A job that is running has its own copy, in which it
would bring the persons back: it is set aside first (``sink``), so that it commits no more and begins anew, from the new snapshots. What
is learnt of many persons together cannot be taken apart again: the receipt says that it is approximate, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from headrace import storage
from headrace.jobs.progress import (
    CLICKS,
    CLICKS_CONTROL,
    LEARNER,
    PROGRESS,
    RECOMMENDER,
    TAGS,
    attached,
    attachment_path,
    last_commit,
    read_progress,
)
from headrace.jobs.sink import set_aside
from headrace.storage.receipts import Reach
from headrace.storage.subjects import Id

_REMAINS: Final = "a share of one remains until newer events outweigh it"
_GO: Final = "earlier snapshots go with their versions, by headrace gc once the next batch is committed"

_Forgotten = tuple[bytes, tuple[Reach, ...]]
"""The snapshot without the persons, and what a receipt says."""


def forget_in_learners(table: storage.Table, ids: Sequence[Id]) -> tuple[Reach, ...]:
    """Forget persons in the newest snapshots of a table; what a receipt says about it."""
    last = last_commit(table)
    reach: list[Reach] = []
    if attachment_path(last, LEARNER) is not None:
        note = f"weights of the click model are shared by all who hash to them; {_REMAINS}"
        reach.append(Reach(f"snapshot {LEARNER!r}", "approximate", note=note))
    forgetful: dict[str, Callable[[str, bytes, str | None, Sequence[Id]], _Forgotten]] = {
        RECOMMENDER: _in_recommender,
        CLICKS: _in_click_model,
        CLICKS_CONTROL: _in_click_model,
        TAGS: _in_tagger,
    }
    if last is not None and ids and any(attachment_path(last, name) for name in forgetful):
        set_aside(table, read_progress(last.attachment(PROGRESS)).query_id)
        last = last_commit(table)  # after a batch that was just being committed
    renewed: dict[str, bytes] = {}
    for name, forget in forgetful.items():
        kept = attached(last, name)
        if kept is None:
            continue
        try:
            fresh, said = forget(name, kept, table.erase_key, ids)
        except ModuleNotFoundError as error:
            missing = f"nothing was done: {error.name} is not installed here; erase again where headrace[stream,torch] is"
            fresh, said = kept, (Reach(f"snapshot {name!r}", "approximate", note=missing),)
        reach += said
        if fresh != kept:
            renewed[name] = fresh
    if renewed and last is not None:
        # The rest of what it kept goes along: a job goes on from the newest commit.
        others = {one.name: last.attachment(one.name) for one in last.attachments}
        table.commit([], attachments={**others, **renewed})
    return tuple(reach)


def _in_recommender(name: str, kept: bytes, erase_key: str | None, ids: Sequence[Id]) -> _Forgotten:
    from headrace.streaming.learners.dynamic_sparse.recommender import DSLRecommender

    model = DSLRecommender.from_bytes(kept)
    if model.user != erase_key:
        return kept, (_untraceable(name, erase_key, (model.user,)),)
    rows = sum(model.forget(user=one) for one in ids)
    remains = f"an item's row is learnt from all who wanted it; {_REMAINS}. Of rows that a person had lost before, marks of pairs stay that name nobody"
    return model.to_bytes(), _said(name, _cleared(rows, ids), "rows of items", remains)


def _in_click_model(name: str, kept: bytes, erase_key: str | None, ids: Sequence[Id]) -> _Forgotten:
    from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier

    model = AdaptDHMClassifier.from_bytes(kept)
    fields = model.fields.ids if model.fields is not None else ()
    if erase_key is None or erase_key not in (*fields, model.group):
        return kept, (_untraceable(name, erase_key, fields),)
    found = [model.forget(one, erase_key) for one in ids]
    waiting, rows = sum(waiting for waiting, _ in found), sum(had_row for _, had_row in found)
    gone = f"{_cleared(rows, ids)}, {waiting} impressions dropped that waited for their label"
    remains = f"the network and the rows of other ids are learnt from all persons; {_REMAINS}"
    return model.to_bytes(), _said(name, gone, "what is shared", remains)


def _in_tagger(name: str, kept: bytes, erase_key: str | None, ids: Sequence[Id]) -> _Forgotten:
    from headrace.streaming.learners.ihomer.tagging import Tagger

    tagger = Tagger.from_bytes(kept)
    rows = tagger.forget_rows() if ids else 0
    gone = f"{rows} rows dropped that were kept as they came, of all persons"
    remains = f"weights, and counts of labels, are of all persons together; {_REMAINS}"
    return tagger.to_bytes(), _said(name, gone, "what is shared", remains)


def _said(name: str, gone: str, rest: str, remains: str) -> tuple[Reach, ...]:
    """A snapshot stands twice in a receipt: what is gone of it, and what of a part of it, ``rest``, remains."""
    return (
        Reach(f"snapshot {name!r}", "exact", note=f"{gone}; {_GO}"),
        Reach(f"snapshot {name!r}, {rest}", "approximate", note=remains),
    )


def _cleared(rows: int, ids: Sequence[Id]) -> str:
    return f"{rows} embedding rows and their optimiser state cleared, of {len(ids)} persons whose rows the table had"


def _untraceable(name: str, erase_key: str | None, fields: Sequence[str]) -> Reach:
    return Reach(
        f"snapshot {name!r}",
        "approximate",
        note=f"persons are named by {erase_key!r}, the model knows ids of {', '.join(fields) or 'nobody'}: none is a person's own, and none was cleared",
    )
