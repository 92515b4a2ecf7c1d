"""The command line ``headrace``: one verb, one function; what a verb does lives in the rooms."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headrace.jobs.terminal import console, run, say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Kafka streams, contracts, online learners and a column store. Type `headrace demo` first.",
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings file; see `headrace setup`.")]


class Policy(StrEnum):
    """Orders of users' jobs, as the command line spells them."""

    UWFQ = "uwfq"
    UJF = "ujf"
    CFQ = "cfq"
    FIFO = "fifo"
    NONE = "none"


@app.command()
def setup(
    conf: Annotated[Path, typer.Option(help="Folder to write.")] = Path(".headrace/conf"),
    config: Config = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Fetch the jars once and write the configuration folder of spark-submit."""
    from headrace.jobs.install import FILES, write_conf
    from headrace.jobs.places import cache, fetch_jars
    from headrace.jobs.settings import read_settings

    settings = read_settings(config)
    if dry_run:
        plan = {"jars": str(cache() / "jars"), "conf": str(conf), "files": FILES}
        say(plan, as_json, lambda: f"would fill {plan['jars']} and write {', '.join(FILES)} to {conf}")
        return
    if not as_json:
        console.print("fetching the broker's and the connector's jars, once …")
    installed = write_conf(conf, settings, fetch_jars(), own=config)
    kept = " (kept as it was)" if installed.kept_settings else ""
    say(
        {
            "conf": str(installed.conf),
            "settings": str(installed.settings),
            "kept_settings": installed.kept_settings,
        },
        as_json,
        lambda: (
            f"wrote {installed.conf}; settings: {installed.settings}{kept}\n"
            f"next: headrace run --config {installed.settings}"
        ),
    )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check everything the jobs need; exit code 1 where something is missing."""
    from headrace.jobs.places import ROOT, cache
    from headrace.streaming.doctor import checks

    found = checks(
        cache=cache(),
        data=ROOT,
        java_home=os.environ.get("JAVA_HOME"),
        path=os.environ.get("PATH"),
        pyspark_python=os.environ.get("PYSPARK_PYTHON"),
    )
    say(
        found,
        as_json,
        lambda: "\n".join(
            f"{'ok  ' if c.ok else 'FAIL'}  {c.name}: {c.found}" + ("" if c.ok else f"\n      {c.remedy}")
            for c in found
        ),
    )
    if not all(check.ok for check in found):
        raise typer.Exit(1)


@app.command("run")
def run_job(
    config: Annotated[Path, typer.Option(help="Settings file.")] = Path(".headrace/conf/headrace.toml"),
    adopt: Annotated[
        bool, typer.Option(help="Go on from the table's offsets with a new checkpoint.")
    ] = False,
    caught_up: Annotated[
        bool, typer.Option(help="End once the topic's present events are committed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the line, and do not call it.")] = False,
) -> None:
    """Print and call the spark-submit line of the main job."""
    from headrace.jobs.submit import submit_line

    line = submit_line(config, adopt=adopt, caught_up=caught_up)
    console.print(line.text(), soft_wrap=True)
    if not dry_run:
        raise typer.Exit(line.call())


@app.command()
def demo(
    events: Annotated[int, typer.Option(min=1_000, help="Events to generate.")] = 200_000,
    data: Annotated[Path | None, typer.Option(help="A real file to replay instead.")] = None,
    as_: Annotated[
        str | None, typer.Option("--as", help="movielens, csv, jsonl or parquet; guessed by default.")
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder of everything the demo writes.")] = Path(
        ".headrace/demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the generated events.")] = 0,
    policy: Annotated[
        Policy, typer.Option(help="In what order users' jobs go; none is Spark's own.")
    ] = Policy.UWFQ,
) -> None:
    """Watch events go from a real Kafka broker into the store, and read them back."""
    from headrace.jobs.demo import run_demo

    raise typer.Exit(run_demo(root, events=events, data=data, form=as_, seed=seed, policy=policy.value))


def main() -> None:
    """Entry point of the ``headrace`` script."""
    from headrace.jobs.cli_erase import register as erase
    from headrace.jobs.cli_store import register as store
    from headrace.jobs.cli_stream import register as stream
    from headrace.jobs.cli_tables import register as tables

    stream(app)
    store(app)
    tables(app)
    erase(app)
    run(app)


if __name__ == "__main__":
    main()
