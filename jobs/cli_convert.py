"""The verb ``convert``: Parquet and Arrow files to tables or files of the store, and back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import pyarrow as pa
import typer

from headrace import storage
from headrace.jobs.errors import BadConversion
from headrace.jobs.terminal import err, say
from headrace.storage.errors import no_such_column
from headrace.storage.objects import local_path
from headrace.storage.reader import File
from headrace.storage.writer import Writer

Form: TypeAlias = Literal["parquet", "arrow", "file", "table"]
Profile: TypeAlias = Literal["size", "balanced", "train", "compliance"]
SUFFIXES: dict[str, Form] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".hrc": "file",
}
SHOWN_AFTER_S = 2.0


def convert(
    source: Annotated[str, typer.Argument(help="A Parquet, Arrow, Feather or .hrc file, or a table.")],
    to: Annotated[
        str, typer.Argument(help="A new .parquet, .arrow, .feather or .hrc file, or a table's folder.")
    ],
    profile: Annotated[Profile, typer.Option(help="What bytes and reading time are worth.")] = "balanced",
    erase_key: Annotated[str | None, typer.Option(help="The column that names a person.")] = None,
    personal: Annotated[
        str | None, typer.Option(help="Comma-separated further columns about the person.")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Comma-separated names; all by default.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Turn a file or table into another format; what is there already is never overwritten."""
    began = time.monotonic()
    made = _form(to)
    target = local_path(to)
    if target is not None and target.exists():
        raise BadConversion(f"{to}: expected a name that is free, found something there; choose another")
    if made in ("parquet", "arrow") and target is None:
        raise BadConversion(
            f"{to}: expected a path on this machine for {made}; convert to a local file and copy it"
        )
    if made in ("parquet", "arrow") and (erase_key or personal):
        raise BadConversion(f"{to}: {made} cannot mark columns; leave out --erase-key and --personal")
    wanted = columns.split(",") if columns else None
    with _opened(source, wanted) as (schema, total, found):
        plan = {"from": source, "to": to, "as": made, "rows": total, "columns": len(schema)}
        if dry_run:
            say(
                plan,
                as_json,
                lambda: f"would write {total or 'all'} rows of {len(schema)} columns to {to}, a {made}",
            )
            return
        with _progress(to, total) as shown:
            marks = {"erase_key": erase_key, "personal": personal.split(",") if personal else ()}
            rows = _write(made, to, schema, shown(found), profile, marks)
    done = plan | {"rows": rows, "bytes": _size(to, made), "seconds": round(time.monotonic() - began, 3)}
    say(done, as_json, lambda: f"wrote {rows} rows, {done['bytes']} bytes, in {done['seconds']} s to {to}")


def _form(path: str) -> Form:
    suffix = Path(path).suffix
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if suffix and local_path(path) is not None:
        raise BadConversion(
            f"{path}: expected a name ending in {', '.join(SUFFIXES)}, or without an ending for a table; got {suffix}"
        )
    return "table"


@contextmanager
def _opened(
    source: str, columns: list[str] | None
) -> Iterator[tuple[pa.Schema, int | None, Iterator[pa.RecordBatch]]]:
    """Schema, rows if they are known beforehand, and batches."""
    path = local_path(source)
    form: Form = "table" if path is not None and path.is_dir() else _form(source)
    if form == "table":
        if path is not None and not path.exists():
            raise FileNotFoundError(f"{source}: expected a table or a file, found nothing")
        scan = storage.open(source).scan(columns)
        yield scan.schema, sum(file.rows - file.deleted for file in scan.files), iter(scan)
        return
    if form == "file":
        with File(source) as file:
            yield file.schema(columns), file.n_rows - file.footer.n_deleted(), file.batches(columns)
        return
    if path is None:
        raise BadConversion(f"{source}: expected a path on this machine for {form}; copy it here first")
    try:
        with _parquet(path, columns) if form == "parquet" else _arrow(path, columns) as opened:
            yield opened
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise BadConversion(f"{source}: not a readable {form} file: {error}") from error


@contextmanager
def _parquet(path: Path, columns: list[str] | None) -> Iterator[tuple[pa.Schema, int | None, Iterator[Any]]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = (
            file.schema_arrow
            if columns is None
            else pa.schema([_field(file.schema_arrow, n, path) for n in columns])
        )
        found = file.iter_batches(batch_size=65_536, columns=columns)
        yield schema, file.metadata.num_rows, (batch.select(schema.names) for batch in found)


@contextmanager
def _arrow(path: Path, columns: list[str] | None) -> Iterator[tuple[pa.Schema, int | None, Iterator[Any]]]:
    with pa.memory_map(str(path)) as raw:
        try:
            reader: Any = pa.ipc.open_file(raw)
        except pa.ArrowInvalid:
            raw.seek(0)
            reader = pa.ipc.open_stream(raw)
        schema = (
            reader.schema if columns is None else pa.schema([_field(reader.schema, n, path) for n in columns])
        )
        if isinstance(reader, pa.RecordBatchStreamReader):
            total, found = None, iter(reader)
        else:
            numbers = range(reader.num_record_batches)
            total = sum(reader.get_batch(number).num_rows for number in numbers)
            found = (reader.get_batch(number) for number in numbers)
        yield schema, total, (batch.select(schema.names) for batch in found)


def _field(schema: pa.Schema, name: str, path: Path) -> pa.Field:
    if name not in schema.names:
        raise no_such_column(path, name, schema.names)
    return schema.field(name)


def _write(
    form: Form,
    to: str,
    schema: pa.Schema,
    found: Iterator[pa.RecordBatch],
    profile: str,
    marks: dict[str, Any],
) -> int:
    if form == "table":
        reader = pa.RecordBatchReader.from_batches(schema, found)
        return storage.write(to, reader, profile=profile, **marks).num_rows
    if form == "file":
        path = local_path(to)
        if path is None:
            raise BadConversion(
                f"{to}: expected a path on this machine for a single file; write a table there instead"
            )
        with Writer(path, schema, profile=profile, **marks) as writer:
            for batch in found:
                writer.write(batch)
            return writer.close().rows
    path = Path(to)
    rows = 0
    try:
        with _sink(form, path, schema) as sink:
            for batch in found:
                sink.write_batch(batch)
                rows += batch.num_rows
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return rows


def _sink(form: Form, path: Path, schema: pa.Schema) -> Any:
    if form == "parquet":
        import pyarrow.parquet as pq

        return pq.ParquetWriter(path, schema, compression="zstd")
    return pa.ipc.new_file(str(path), schema)


def _size(to: str, form: Form) -> int:
    if form == "table":
        return sum(file.bytes for file in storage.open(to).files)
    path = local_path(to)
    return path.stat().st_size if path is not None else 0


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Any]:
    """A bar on a terminal's stderr, once it takes long."""
    from rich.progress import Progress

    bar = Progress(console=err, transient=True)
    began = time.monotonic()

    def shown(found: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        task = bar.add_task(what, total=total)
        for batch in found:
            yield batch
            bar.advance(task, batch.num_rows)
            if err.is_terminal and not bar.live.is_started and time.monotonic() - began > SHOWN_AFTER_S:
                bar.start()

    try:
        yield shown
    finally:
        if bar.live.is_started:
            bar.stop()
