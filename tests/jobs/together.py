"""Learns a file with two executors of a local cluster and in this process; prints how far apart the two end. Argument: a folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace import storage
from headrace.jobs._session import session
from headrace.jobs.settings import Spark
from headrace.jobs.together import learn_together
from headrace.streaming.learners.adapt_dhm.classifier import AdaptDHMClassifier


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 20, 3_000), rng.integers(0, 90, 3_000)
    rows = pa.table({"a": a, "b": b, "x": rng.normal(size=3_000), "clicked": ((a + b) % 2).astype(np.int8)})
    table = storage.write(folder / "rows", rows)
    path = table.folder / table.files[0].path
    model = AdaptDHMClassifier(
        ids=("a", "b"),
        numbers=("x",),
        context=("a",),
        clusters=8,
        hidden=(16,),
        rows=200,
        contexts=50,
        batch=64,
        lr=1e-3,
    )
    conf = {"spark.executor.extraJavaOptions": os.environ.get("SPARK_SUBMIT_OPTS", "")}
    spark = session(Spark(master="local-cluster[2,1,1024]", driver_memory="1g", conf=conf), [])
    together = learn_together(spark.sparkContext, model, path, label="clicked", workers=2, folder=folder)
    spark.stop()
    model.learn_arrow(rows.combine_chunks().to_batches()[0], "clicked")
    assert model.model is not None
    assert together.model is not None
    apart = [
        float((mine - theirs).abs().max())
        for mine, theirs in zip(model.model.parameters(), together.model.parameters(), strict=True)
    ]
    apart.append(
        float(np.abs(model.model.table.store.arrays.fp32 - together.model.table.store.arrays.fp32).max())
    )
    print(
        json.dumps(
            {
                "learnt": [model.n_learned, together.n_learned],
                "apart": max(apart),
                "left": [p.name for p in folder.iterdir()],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
