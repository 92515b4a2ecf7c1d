"""The command line ``headrace``: one verb, one function; what a verb does lives in the rooms."""

from __future__ import annotations

import os
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
Config = Annotated[Path | None, typer.Option("--config", help="Settings file; see `headrace setup`.")]


@app.command()
def setup(
    conf: Annotated[Path, typer.Option(help="Folder to write.")] = Path(".headrace/conf"),
    config: Config = None,
) -> None:
    """Fetch the jars once and write the configuration folder of spark-submit."""
    from headrace.jobs.install import write_conf
    from headrace.jobs.places import fetch_jars
    from headrace.jobs.settings import read_settings

    console.print("fetching the broker's and the connector's jars, once …")
    installed = write_conf(conf, read_settings(config), fetch_jars(), own=config)
    kept = " (kept as it was)" if installed.kept_settings else ""
    console.print(f"wrote {installed.conf}; settings: {installed.settings}{kept}", soft_wrap=True)
    console.print(f"next: headrace run --config {installed.settings}", soft_wrap=True)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check everything the jobs need; exit code 1 where something is missing."""
    from headrace.jobs.places import Places, cache
    from headrace.streaming.doctor import checks

    found = checks(
        cache=cache(),
        data=Places().root,
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
) -> None:
    """Print and call the spark-submit line of the main job."""
    from headrace.jobs.submit import submit_line

    line = submit_line(config, adopt=adopt, caught_up=caught_up)
    console.print(line.text(), soft_wrap=True)
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
) -> None:
    """Watch events go from a real Kafka broker into the store, and read them back."""
    from headrace.jobs.demo import run_demo

    raise typer.Exit(run_demo(root, events=events, data=data, form=as_, seed=seed))


def main() -> None:
    """Entry point of the ``headrace`` script."""
    from headrace.jobs.cli_store import register as store
    from headrace.jobs.cli_stream import register as stream

    stream(app)
    store(app)
    run(app)


if __name__ == "__main__":
    main()
