"""How every verb speaks: exit codes, JSON or text, errors in one line.

Exit codes: 0 fine, 1 what the user can mend, 2 corrupt data, 3 conflict, 4 refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn, cast

import msgspec
import typer
from rich.console import Console

from headrace.jobs.errors import CheckpointLost, ContractChanged, JobError, LearnerChanged, Overtaken
from headrace.scheduler.errors import SchedulerError
from headrace.storage import errors as store
from headrace.streaming.errors import StreamingError
from headrace.streaming.learners.errors import LearnerError

console = Console(highlight=False)
err = Console(stderr=True, highlight=False)

# typer carries its own copy of click or uses the installed one; this is the base of all usage errors of either.
_ClickException = cast("type[Exception]", typer.BadParameter.__mro__[2])
OURS = (JobError, SchedulerError, StreamingError, LearnerError, store.StorageError)
"""The bases of all errors that are raised on purpose."""
_CORRUPT = (
    store.BadFile,
    store.CorruptFooter,
    store.CorruptPage,
    store.CorruptManifest,
    store.RegisterTampered,
    store.ErasedDataReturned,
)
_CONFLICT = (store.CommitConflict, store.CommitUnknown, Overtaken)
_REFUSED = (
    CheckpointLost,
    ContractChanged,
    LearnerChanged,
    store.ClockDoubtful,
    store.UnsafePath,
    store.UnsupportedFeature,
    store.RequestRefused,
    store.RequestMalformed,
    store.WrongKeyType,
)


def exit_code(error: Exception) -> int:
    """The exit code that tells a script what kind of failure this was."""
    if isinstance(error, _CORRUPT):
        return 2
    if isinstance(error, _CONFLICT):
        return 3
    return 4 if isinstance(error, _REFUSED) else 1


def say(value: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print ``value`` as one line of JSON, or what ``text`` makes of it."""
    print(msgspec.json.encode(value).decode() if as_json else text())


def run(app: typer.Typer) -> NoReturn:
    """Run the command line; ends the process with the exit code.

    ``--debug`` anywhere shows tracebacks; without it an error is one line.
    """
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        code = app(standalone_mode=False)  # what typer.Exit was raised with, or a verb's own None
    except typer.Abort:
        sys.exit(1)
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except _ClickException as misuse:
        cast("Any", misuse).show()
        sys.exit(1)
    except (*OURS, OSError) as error:
        if debug:
            raise
        err.print(f"{type(error).__name__}: {error}", markup=False, soft_wrap=True)
        sys.exit(exit_code(error))
    sys.exit(code if isinstance(code, int) else 0)
