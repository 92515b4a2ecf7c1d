"""Tags learnt from a topic: beside the click model, and alone; restarts go on, and windows and events are rows of a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace import storage
from headrace.jobs.errors import BadSettings, LearnerChanged
from headrace.jobs.progress import LEARNER, PROGRESS, TAGS, attachment_path, last_commit
from headrace.jobs.settings import Settings, Stream, Tags
from headrace.jobs.tags import open_tags, task_of
from headrace.jobs.train_tags import for_tags
from headrace.streaming.ad_feed import AdFeed
from headrace.streaming.contracts import load
from headrace.streaming.learners.errors import WrongFeatures
from headrace.streaming.learners.ihomer.tagging import Tagger
from headrace.streaming.replay import replay

from .conftest import Pipeline
from .test_pipeline import CLICKS

Make = Callable[..., Pipeline]


def with_tags(job: Pipeline, **tags: object) -> Pipeline:
    return Pipeline(job.spark, job.settings.model_copy(update={"tags": Tags(**tags)}))  # type: ignore[arg-type]


@pytest.mark.spark
@pytest.mark.broker
def test_tags_are_learnt_beside_clicks_and_a_restart_goes_on(pipeline: Make) -> None:
    job = with_tags(pipeline(max_events_per_batch=1_500), column="tags", window_events=500)
    feed = list(AdFeed(seed=9, n_users=200, n_items=200).messages(5_000))
    job.send(feed[:3_000])
    job.run()
    first = storage.open(
        job.settings.stream.table.with_name(f"{job.settings.stream.table.name}_tags")
    ).to_table()
    job.send(feed[3_000:])
    job.run()
    table = storage.open(job.settings.stream.table)
    last = last_commit(table)
    assert last is not None
    assert attachment_path(last, LEARNER) is not None
    contract = load("ad_feed")
    task = task_of(contract, job.settings.tags, "tags", job.settings.seed)
    tagger = Tagger.from_bytes(last.attachment(TAGS))
    assert tagger.task == task
    shown = sum(tags is not None for tags in table.to_table().column("tags").to_pylist())
    waiting = sum(batch.num_rows for batch in tagger._waiting)
    assert tagger.model.n_learned + waiting == shown
    report = storage.open(job.settings.stream.table.with_name(f"{table.folder.name}_tags")).to_table()
    assert report.slice(0, first.num_rows).equals(first)
    windows = [row for row in report.to_pylist() if row["kind"] == "window"]
    assert [row["row"] for row in windows] == [500 * (k + 1) for k in range(len(windows))]
    assert len(windows) == tagger.model.n_learned // 500
    assert windows[-1]["micro_f1"] > windows[0]["micro_f1"]
    assert not {"user_id", "event_id", "age_band", "gender"} & set(task.features.columns)
    changed = with_tags(job, column="tags", bits=8)
    with pytest.raises(LearnerChanged, match="bits was 12, is 8"):
        changed.run()


def test_another_task_is_refused_and_windows_of_another_size_are_not(tmp_path: Path) -> None:
    """As many features, of other names, are another task."""
    contract, first = load("ad_feed"), Tags(features=("price",), window_events=500)
    table = storage.create(tmp_path / "t", pa.schema([("n", pa.int64())]))
    kept = Tagger(task_of(contract, first, "tags", 0)).to_bytes()
    table.commit([], attachments={PROGRESS: b"{}", TAGS: kept})
    with pytest.raises(LearnerChanged, match=r"dense was \('price',\), is \('quality',\)"):
        open_tags(table, contract, Tags(features=("quality",)), "tags", 0)
    wider = open_tags(table, contract, Tags(features=("price",), window_events=700), "tags", 0)
    assert wider._tagger.task.window_rows == 700


CONTRACT = """
topic = "moods"
version = 1
doc = "Songs and the moods they are heard in."
[[columns]]
name = "id"
type = "int64"
required = true
[[columns]]
name = "at"
type = "timestamp"
required = true
{columns}
[[columns]]
name = "moods"
type = "list<string>"
required = true
max_length = 8
[features]
event_id = "id"
event_time = "at"
key = "id"
dense = {dense}
"""


@pytest.mark.spark
@pytest.mark.broker
def test_a_public_multi_label_stream_is_replayed_and_learnt(
    pipeline: Make, datasets: Path, tmp_path: Path
) -> None:
    data = pq.read_table(datasets / "multilabel/emotions.parquet")
    labels = json.loads(data.schema.metadata[b"labels"])
    dense = [name for name in data.column_names if name not in labels]
    columns = "".join(f'[[columns]]\nname = "{name}"\ntype = "float64"\nrequired = true\n' for name in dense)
    contract = tmp_path / "moods.toml"
    contract.write_text(CONTRACT.format(columns=columns, dense=json.dumps(dense)))
    truth = np.column_stack([data[label].to_numpy() for label in labels])
    songs = pa.table(
        {
            "id": np.arange(data.num_rows),
            "at": pa.array(
                np.arange(data.num_rows) * 1_000_000 + 1_700_000_000_000_000, pa.timestamp("us", "UTC")
            ),
            **{name: data[name].cast(pa.float64()) for name in dense},
            "moods": [[labels[i] for i in np.flatnonzero(row)] for row in truth],
        }
    )
    pq.write_table(songs, tmp_path / "songs.parquet")
    job = pipeline(contract=contract, partitions=1)
    job = Pipeline(job.spark, for_tags(job.settings.model_copy(update={"tags": Tags(window_events=200)})))
    with job.producer() as producer:
        replay(tmp_path / "songs.parquet", "parquet", load(str(contract)), producer)
    job.run()
    assert job.rows().num_rows == data.num_rows
    last = last_commit(storage.open(job.settings.stream.table))
    assert last is not None
    assert attachment_path(last, LEARNER) is None
    report = storage.open(
        job.settings.stream.table.with_name(f"{job.settings.stream.table.name}_tags")
    ).to_table()
    windows = [row for row in report.to_pylist() if row["kind"] == "window"]
    assert len(windows) == 2
    assert windows[1]["micro_f1"] > 0.6


def test_the_job_takes_the_only_list_of_words_and_says_what_it_cannot_use(tmp_path: Path) -> None:
    assert for_tags(Settings()).tags.column == "tags"
    assert not for_tags(Settings()).learner.enabled
    path = tmp_path / "shop.toml"
    path.write_text(CLICKS)
    with pytest.raises(BadSettings, match="found none"):
        for_tags(Settings(stream=Stream(contract=str(path))))
    contract = load("ad_feed")
    with pytest.raises(WrongFeatures, match=r"expected a column of type list<string>.*came string"):
        task_of(contract, Tags(), "domain", 0)
    with pytest.raises(WrongFeatures, match="colour is neither"):
        task_of(contract, Tags(features=("colour",)), "tags", 0)
    assert task_of(contract, Tags(features=("price",)), "tags", 0).is_hashed is False
