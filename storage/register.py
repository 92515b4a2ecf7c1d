"""The register of erasures: requests that were admitted, the log of receipts, holds, and whom to trust.

In the flow: a local folder beside the tables it speaks of, owned by whoever answers for erasures; ``headrace erase`` and the job
of the erasure topic write it, one at a time.

    policy.json  holds.json           written by people
    requests/<request id>.json        the envelope as it came, kept once admitted
    receipts.jsonl                    one signed receipt a line, each with the hash of the line before
    head.json                         how many lines there are and the Merkle root over them, signed

A receipt is appended and synced before the head is replaced, so a crash leaves at most one line that the head does not know:
the next writer takes it in, or cuts off half of one. Fewer lines than the head says is tampering. If head and log were both
rolled back, only a head that somebody kept elsewhere shows it; ``verify`` takes one.
"""

from __future__ import annotations

import fcntl
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3

from headrace.storage import durable, transparency
from headrace.storage.erase_requests import DAY_MS, Hold, Policy, Request, admit, decode
from headrace.storage.errors import BadKey, RegisterTampered, RequestMalformed, RequestRefused
from headrace.storage.receipts import Head, Proof, Receipt, read_head, read_receipt, sign_head, sign_receipt
from headrace.storage.signing import Envelope, Signer, parse_envelope
from headrace.storage.subjects import Kind

REQUESTS, RECEIPTS, HEAD, POLICY, HOLDS, LOCK = (
    *("requests", "receipts.jsonl", "head.json"),
    *("policy.json", "holds.json", ".lock"),
)
DONE: Final = ("erased", "canonical")


_POLICY = msgspec.json.Decoder(Policy)
_HOLDS = msgspec.json.Decoder(tuple[Hold, ...])


@dataclass(frozen=True)
class Case:
    """One admitted request and how far it has come; ``level`` is None before anything was done."""

    request: Request
    level: str | None
    suppressed_at_ms: int | None
    done_at_ms: int | None

    @property
    def is_done(self) -> bool:
        """Whether what was asked for has been done."""
        return self.done_at_ms is not None


@dataclass(frozen=True)
class Status:
    """Counts over all requests of a register.

    ``overdue`` are open ones past their deadline; the days are medians from issue on, None where none got there.
    """

    open: int
    done: int
    overdue: int
    median_days_to_suppressed: float | None
    median_days_to_done: float | None
    cases: tuple[Case, ...]


class Register:
    """One folder of erasures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, policy: Policy) -> Register:
        """Make a register that trusts these keys; raises FileExistsError where there is one."""
        durable.make_dir(folder / REQUESTS)
        durable.write_file_synced(
            folder / POLICY, msgspec.json.format(msgspec.json.encode(policy), indent=1) + b"\n"
        )
        durable.sync_dir(folder)
        return cls(folder)

    def policy(self) -> Policy:
        """Whom it trusts.

        Raises:
            BadKey: there is no policy, or none that can be read.
        """
        try:
            return _POLICY.decode((self.folder / POLICY).read_bytes())
        except FileNotFoundError:
            raise BadKey(
                f"{self.folder}: expected a register of erasures, found no {POLICY}; make one with headrace erase keys"
            ) from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadKey(f"{self.folder / POLICY}: not a policy: {error}; correct it") from None

    def holds(self) -> tuple[Hold, ...]:
        """Persons whose data must stay; a file that cannot be read refuses everything."""
        try:
            return _HOLDS.decode((self.folder / HOLDS).read_bytes())
        except FileNotFoundError:
            return ()
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RequestRefused(
                f"{self.folder / HOLDS}: not a list of holds: {error}; nothing is erased until it is corrected"
            ) from None

    def add_holds(self, holds: Sequence[Hold]) -> None:
        """Keep more persons' data; synced before this returns."""
        with self._locked():
            data = msgspec.json.format(msgspec.json.encode([*self.holds(), *holds]), indent=1) + b"\n"
            self._replace(HOLDS, data)

    # -- requests ------------------------------------------------------------------------------------------------------

    def submit(self, envelope: Envelope, *, table: str, key_kind: Kind, now_ms: int) -> Request:
        """Judge a request and keep it; raises as ``admit`` does, and then nothing was kept."""
        with self._locked():
            request = admit(
                envelope,
                self.policy(),
                table=table,
                key_kind=key_kind,
                now_ms=now_ms,
                seen=self._ids(),
                holds=self.holds(),
            )
            self._replace(f"{REQUESTS}/{request.request_id}.json", envelope.to_json() + b"\n")
        return request

    def preview(self, envelope: Envelope, *, table: str, key_kind: Kind, now_ms: int) -> Request:
        """As ``submit``, but nothing is kept."""
        return admit(
            envelope,
            self.policy(),
            table=table,
            key_kind=key_kind,
            now_ms=now_ms,
            seen=self._ids(),
            holds=self.holds(),
        )

    def requests(self) -> list[Request]:
        """All that were admitted, the oldest issue first."""
        found = [
            decode(parse_envelope(self._request(name).read_bytes()).body()) for name in sorted(self._ids())
        ]
        return sorted(found, key=lambda request: (request.issued_at_ms, request.request_id))

    def _ids(self) -> set[str]:
        return {path.stem for path in (self.folder / REQUESTS).glob("*.json")}

    def _request(self, request_id: str) -> Path:
        return self.folder / REQUESTS / f"{request_id}.json"

    # -- receipts ------------------------------------------------------------------------------------------------------

    def append(self, make: Receipt, by: Signer) -> Receipt:
        """Sign a receipt and add it to the log.

        Args:
            make: ``sequence`` and ``previous`` are set here.
            by: a key that the policy trusts with receipts.

        Raises:
            BadKey: it is another.
            RegisterTampered: the log is not what was signed; nothing was added.
        """
        trusted = self.policy().receipts
        if by.key_id not in trusted:
            raise BadKey(
                f"{self.folder}: key {by.key_id} is not trusted with receipts; add it to {POLICY}, or use one of {sorted(trusted)}"
            )
        with self._locked():
            lines = self._mended(by)
            previous = blake3(lines[-1]).hexdigest() if lines else ""
            receipt = replace(make, sequence=len(lines), previous=previous)
            line = sign_receipt(receipt, by).to_json()
            with (self.folder / RECEIPTS).open("ab") as file:
                file.write(line + b"\n")
                file.flush()
                durable.sync_file(file.fileno())
            durable.sync_dir(self.folder)
            self._write_head([*lines, line], by)
        return receipt

    def receipts(self) -> list[Receipt]:
        """All receipts, checked as ``verify`` does."""
        return self.verify()[0]

    def proof(self, sequence: int) -> Proof:
        """A receipt with all that is needed to check it offline.

        Raises:
            RequestRefused: there is no such receipt.
            RegisterTampered: as ``verify``.
        """
        _, head = self.verify()
        if not 0 <= sequence < head.size:
            raise RequestRefused(
                f"{self.folder}: there is no receipt {sequence}, the signed head of the log speaks of {head.size}"
            )
        lines = self._lines()
        leaves = [transparency.leaf(line) for line in lines[: head.size]]
        path = tuple(found.hex() for found in transparency.inclusion(leaves, sequence))
        return Proof(parse_envelope(lines[sequence]), self._head_envelope(), path)

    def verify(self, kept: Head | None = None) -> tuple[list[Receipt], Head]:
        """Check every signature and every hash of the log.

        Args:
            kept: a head that was seen earlier; the log must still begin with what it speaks of.

        Returns:
            all receipts, and the head; it may not know the last one yet, if a crash came between the two.

        Raises:
            RegisterTampered: naming the first thing that is wrong.
        """
        trusted, lines = self.policy().receipts, self._lines()
        if len(lines) <= 1 and not (self.folder / HEAD).exists():
            head = Head(0, transparency.root([]).hex())
        else:
            head = read_head(self._head_envelope(), trusted)
        leaves = [transparency.leaf(line) for line in lines]
        known = transparency.root(leaves[: head.size]).hex()
        if not head.size <= len(lines) <= head.size + 1 or known != head.root:
            raise self._wrong(
                f"the signed head speaks of {head.size} entries with root {head.root}, there are {len(lines)} with root {known}"
            )
        receipts, previous = [], ""
        for at, line in enumerate(lines):
            receipt = self._entry(line, at, trusted)
            if (receipt.sequence, receipt.previous) != (at, previous):
                raise self._wrong(f"entry {at} says that it is {receipt.sequence} after {receipt.previous}")
            previous = blake3(line).hexdigest()
            receipts.append(receipt)
        if kept is not None and (
            kept.size > len(lines) or transparency.root(leaves[: kept.size]).hex() != kept.root
        ):
            raise self._wrong(
                f"it does not begin with the {kept.size} entries of root {kept.root} that were seen earlier"
            )
        return receipts, head

    def mend(self, by: Signer) -> None:
        """Finish what an append that was killed began; changes nothing otherwise. Raises as ``verify``."""
        with self._locked():
            self._mended(by)

    def _mended(self, by: Signer) -> list[bytes]:
        """The entries, after half a line was cut off and a whole one that the head does not know was signed for."""
        _, head = self.verify()
        lines, path = self._lines(), self.folder / RECEIPTS
        whole = sum(len(line) + 1 for line in lines)
        if path.exists() and path.stat().st_size > whole:
            with path.open("r+b") as file:
                file.truncate(whole)
                durable.sync_file(file.fileno())
        if len(lines) > head.size:
            self._write_head(lines, by)
        return lines

    def _entry(self, line: bytes, at: int, trusted: Mapping[str, str]) -> Receipt:
        try:
            return read_receipt(parse_envelope(line), trusted)
        except RequestMalformed as error:
            raise self._wrong(f"entry {at}: {error}") from None

    def _lines(self) -> list[bytes]:
        """Whole entries; half of one at the end is what a crash leaves, and was never told to anybody."""
        try:
            return (self.folder / RECEIPTS).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []

    def _write_head(self, lines: Sequence[bytes], by: Signer) -> None:
        root = transparency.root([transparency.leaf(line) for line in lines]).hex()
        self._replace(HEAD, sign_head(Head(len(lines), root), by).to_json() + b"\n")

    def _replace(self, name: str, data: bytes) -> None:
        path = self.folder / name
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)
        durable.write_file_synced(temporary, data)
        temporary.replace(path)
        durable.sync_dir(path.parent)

    def _head_envelope(self) -> Envelope:
        try:
            return parse_envelope((self.folder / HEAD).read_bytes())
        except FileNotFoundError:
            raise self._wrong(f"the log has entries, but {HEAD} is gone") from None
        except RequestMalformed as error:
            raise self._wrong(f"{HEAD}: {error}") from None

    def _wrong(self, what: str) -> RegisterTampered:
        return RegisterTampered(
            f"{self.folder}: {what}; compare with a copy of the register, and keep this one as it is"
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    # -- status --------------------------------------------------------------------------------------------------------

    def status(self, now_ms: int) -> Status:
        """How far every request has come, at a time."""
        reached: dict[str, list[Receipt]] = {}
        for receipt in self.receipts():
            reached.setdefault(receipt.request_id, []).append(receipt)
        cases = [_case(request, reached.get(request.request_id, [])) for request in self.requests()]
        waiting = [case for case in cases if not case.is_done]
        late = [case for case in waiting if case.request.deadline_ms < now_ms]
        return Status(
            len(waiting),
            len(cases) - len(waiting),
            len(late),
            _median_days(cases, [case.suppressed_at_ms for case in cases]),
            _median_days(cases, [case.done_at_ms for case in cases]),
            tuple(cases),
        )


def _case(request: Request, receipts: Sequence[Receipt]) -> Case:
    wanted = DONE if request.level != "suppressed" else ("suppressed", *DONE)
    enough = [
        r for r in receipts if r.level in wanted and (request.level != "canonical" or r.level == "canonical")
    ]
    return Case(
        request,
        receipts[-1].level if receipts else None,
        receipts[0].done_at_ms if receipts else None,
        enough[0].done_at_ms if enough else None,
    )


def _median_days(cases: Sequence[Case], at: Sequence[int | None]) -> float | None:
    taken = [
        (then - case.request.issued_at_ms) / DAY_MS
        for case, then in zip(cases, at, strict=True)
        if then is not None
    ]
    return statistics.median(taken) if taken else None
