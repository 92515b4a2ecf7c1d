"""The spark-submit line of the main job: printed for people, called for them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.jobs.errors import BadSettings
from headrace.streaming import warden

WARDEN = Path(warden.__file__)


def entry_point() -> Path:
    """The file that spark-submit is given."""
    return Path(__file__).resolve().with_name("pipeline.py")


@dataclass(frozen=True)
class SubmitLine:
    """A command and the few environment variables it needs."""

    environment: dict[str, str]
    command: tuple[str, ...]

    def text(self) -> str:
        """The line as one would type it, with paths below the current folder made short."""
        variables = " ".join(
            f"{name}={shlex.quote(_short(value))}" for name, value in self.environment.items()
        )
        return f"{variables} {shlex.join(_short(part) for part in self.command)}"

    def call(self) -> int:
        """Run it in the foreground; its exit code."""
        with subprocess.Popen(self.command, env={**os.environ, **self.environment}) as process:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:  # the terminal told the job as well, which ends by itself
                    continue

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """Start it in the background, printing to ``log``; it ends when this process does, however that ends."""
        with log.open("ab") as out:
            return subprocess.Popen(
                (sys.executable, "-I", "-S", str(WARDEN), "attached", *self.command),
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=out,
                start_new_session=True,  # Ctrl-C in a terminal is for the caller, who then stops the job in order
            )


def submit_line(
    config: Path,
    *,
    adopt: bool = False,
    caught_up: bool = False,
    stop_file: Path | None = None,
    analysts: int = 0,
    accounts: Path | None = None,
) -> SubmitLine:
    """The line for the settings file ``config`` of a folder that ``headrace setup`` wrote.

    Raises:
        BadSettings: there is no such file, or no ``spark-defaults.conf`` beside it.
    """
    if not config.exists() or not config.with_name("spark-defaults.conf").exists():
        raise BadSettings(
            f"'{config.parent}' is not a configuration folder; run `headrace setup --conf {config.parent}`"
        )
    arguments: Sequence[str] = (
        *("--config", str(config)),
        *(("--adopt",) if adopt else ()),
        *(("--caught-up",) if caught_up else ()),
        *(("--stop-file", str(stop_file)) if stop_file is not None else ()),
        *(("--analysts", str(analysts)) if analysts else ()),
        *(("--accounts", str(accounts)) if accounts is not None else ()),
    )
    submit = Path(sys.executable).with_name("spark-submit")
    return SubmitLine(
        {
            "SPARK_CONF_DIR": str(config.parent.absolute()),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
        },
        (str(submit) if submit.exists() else "spark-submit", str(entry_point()), *arguments),
    )


def _short(text: str) -> str:
    """``text`` relative to the current folder where it is a path below it."""
    path = Path(text)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return text
