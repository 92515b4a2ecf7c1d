"""One request from its envelope to its receipts: admit, trace the digests, suppress, erase, tell the learners, sign what was done.

In the flow: called by ``headrace erase`` and by the job of the erasure topic (``erase.py``). A request is kept before anything is
changed and each step ends with a signed receipt, so whoever is killed in between goes on where it stopped: ``resume`` does every
step that has no receipt yet, and a step done twice changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from headrace import storage
from headrace.jobs.forgetting import forget_in_learners
from headrace.storage.committing import now_ms
from headrace.storage.epochs import unsaid
from headrace.storage.erase import erase, suppress
from headrace.storage.erase_requests import Request
from headrace.storage.erased import IN_PLACE, REMOVED, WAITING, Erased
from headrace.storage.errors import EraseUnfinished
from headrace.storage.held import kept_files, key_type
from headrace.storage.receipts import OUT_OF_SCOPE, Reach, Receipt, Touched
from headrace.storage.register import DONE, Register
from headrace.storage.signing import Envelope, Signer
from headrace.storage.subjects import Id, Kind, SubjectKey, kind_of, present

ELSEWHERE = (
    "event topics",
    "dead-letter topic",
    "erasure topic",
    "Spark's checkpoints",
    "Spark's local folders",
    "Spark's event logs",
    "validation results",
    "logs and metrics",
)
"""Places of a pipeline where a person may have been beside the table, each with a retention of its own."""


@dataclass(frozen=True)
class Office:
    """Who carries out erasures of one table.

    Attributes:
        signer: of receipts.
        key: under which ids are digested.
        clock_ms: the time.
        topics_days: after how many days places beyond the table hold nothing from before, as whoever runs them says, unless the
            register's policy says it of one of them; None claims nothing.
    """

    register: Register
    table: storage.Table
    signer: Signer
    key: SubjectKey
    clock_ms: Callable[[], int] = now_ms
    topics_days: int | None = None

    @property
    def kind(self) -> Kind:
        """What ids of the table are. Raises NoEraseKey, WrongKeyType."""
        return key_kind(self.table)

    def plan(self, envelope: Envelope) -> tuple[Request, Erased]:
        """What a request would do; nothing is kept or changed."""
        request = self.register.preview(
            envelope, table=self.table.path.name, key_kind=self.kind, now_ms=self.clock_ms()
        )
        ids = self._ids(request)
        return request, erase(self.table, ids, level=request.level, dry_run=True)

    def run(self, envelope: Envelope, told: Callable[[int, int], None] | None = None) -> list[Receipt]:
        """Carry out a request; raises as ``Register.submit``, and then nothing was done.

        Raises:
            EraseUnfinished: a file was changed by an erase that nobody asked for here.
        """
        self._refuse_unsaid()
        request = self.register.submit(
            envelope, table=self.table.path.name, key_kind=self.kind, now_ms=self.clock_ms()
        )
        return self._steps(request, [], told)

    def _refuse_unsaid(self) -> None:
        """An erase takes files as it finds them and signs for that, so what no version speaks of has to come from one that was killed."""
        mine = self.table.refresh().path.name
        waiting = [case for case in self.register.status(self.clock_ms()).cases if not case.is_done]
        if any(case.request.table == mine for case in waiting):
            return
        for path, what in unsaid(self.table, kept_files(self.table)):
            raise EraseUnfinished(
                f"{self.table.path}: {path} {what}; no request to this register is unfinished, so nothing more is erased until "
                "that is cleared up: restore the file, or erase by the way that was begun"
            )

    def resume(self, told: Callable[[int, int], None] | None = None) -> list[Receipt]:
        """Finish every admitted request of this table that lacks a step."""
        done: list[Receipt] = []
        self.register.mend(self.signer)
        receipts = self.register.receipts()
        for request in self.register.requests():
            if request.table == self.table.path.name:
                before = [found.level for found in receipts if found.request_id == request.request_id]
                done += self._steps(request, before, told)
        return done

    def _steps(
        self, request: Request, before: Sequence[str], told: Callable[[int, int], None] | None
    ) -> list[Receipt]:
        done: list[Receipt] = []
        finished = request.level in before or (request.level == "erased" and not set(DONE).isdisjoint(before))
        if finished:
            return done
        ids = self._ids(request)
        if "suppressed" not in before:
            version, hidden = self.table.refresh().version, suppress(self.table, ids)
            done.append(self._receipt(request, hidden, ids, version, ()))
        if request.level != "suppressed":
            version = self.table.refresh().version
            gone = erase(self.table, ids, level=request.level, on_progress=told or (lambda done, of: None))
            reach = forget_in_learners(self.table, ids)
            done.append(self._receipt(request, gone, ids, version, reach))
        return done

    def _ids(self, request: Request) -> list[Id]:
        return list(self.key.find(present(self.table.refresh()), request.subjects).values())

    def _receipt(
        self, request: Request, done: Erased, ids: Sequence[Id], version: int, reach: Sequence[Reach]
    ) -> Receipt:
        now = self.clock_ms()
        files = () if done.level == "suppressed" else tuple(_touched(done))
        closed = range(version, done.closed_before) if done.closed_before > version else range(0)
        return self.register.append(
            Receipt(
                sequence=-1,
                previous="",
                request_id=request.request_id,
                request_blake3=request.blake3(),
                subjects_blake3=request.subjects_blake3(),
                n_subjects=len(request.subjects),
                n_found=len(ids),
                level=done.level,
                table=request.table,
                version_before=version,
                version_after=done.version,
                root_before=done.root_before,
                root_after=done.root_after,
                erase_epoch=self.table.refresh()._manifest.standing.erase_epoch,
                rows=done.rows,
                files=files,
                versions_closed=tuple(closed),
                reach=(*reach, *_waiting(done.waiting), *self._elsewhere(now), *OUT_OF_SCOPE),
                requested_at_ms=request.issued_at_ms,
                deadline_ms=request.deadline_ms,
                done_at_ms=now,
            ),
            self.signer,
        )

    def _elsewhere(self, now: int) -> tuple[Reach, ...]:
        days = dict.fromkeys(ELSEWHERE, self.topics_days) | dict(self.register.policy().ages_out)
        return tuple(_aged_out(place, after, now) for place, after in days.items())


def _waiting(files: int) -> tuple[Reach, ...]:
    return (
        (Reach("files that are in no version", "approximate", note=f"{files} of them: {WAITING}"),)
        if files
        else ()
    )


def _aged_out(place: str, days: int | None, now: int) -> Reach:
    if days is None:
        return Reach(place, "out of scope", note="its retention was not told")
    gone = datetime.fromtimestamp(now / 1e3 + days * 86_400, UTC).date().isoformat()
    return Reach(place, "aged out", gone, "by a retention that was told, not seen")


def key_kind(table: storage.Table) -> Kind:
    """What ids a table's erase key holds.

    Raises:
        NoEraseKey: it has none.
        WrongKeyType: its type names no person.
    """
    return kind_of(key_type(table))


_HOW: dict[str, Literal["in place", "removed"]] = {IN_PLACE: "in place", REMOVED: "removed"}


def _touched(done: Erased) -> list[Touched]:
    return [
        Touched(
            file.path,
            _HOW.get(file.how, "rewritten"),
            file.rows,
            file.data_blocks,
            file.bytes_written,
            file.root_before,
            file.root_after,
        )
        for file in done.files
    ]
