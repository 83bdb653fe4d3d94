"""Writes the exports in this folder anew, with the libraries whose layouts they are.

In an environment of its own: pip install datasets lancedb pymongo; python tests/data/exports/make.py
"""

import io
import json
import shutil
import zlib
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bson import json_util
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Sequence, Value

HERE = Path(__file__).parent
N, D, L = 12, 4, 2
NAMES = ["cat", "dog", "owl"]


def numbers(*shape):
    """Numbers that tests make again."""
    return (
        np.arange(1, 1 + np.prod(shape)).reshape(shape) % 7
        - 3.5
        + np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    ).astype(np.float32)


def main():
    for old in HERE.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
        elif old.suffix != ".py":
            old.unlink()
    vectors, views = numbers(N, D), numbers(N, L, D)
    labels = [row % 3 for row in range(N)]
    features = Features(
        {"embedding": Sequence(Value("float32")), "label": ClassLabel(names=NAMES), "file_name": Value("string")}
    )
    plain = Dataset.from_dict(
        {"embedding": vectors.tolist(), "label": labels, "file_name": [f"{row:02d}.jpg" for row in range(N)]}, features
    )
    plain.save_to_disk(HERE / "datasets_saved")
    DatasetDict({"train": plain.select(range(8)), "test": plain.select(range(8, N))}).save_to_disk(
        HERE / "datasets_dict"
    )
    plain.to_parquet(HERE / "datasets.parquet")
    plain.to_json(HERE / "datasets.jsonl")
    fixed = Features(
        {
            "embedding": Sequence(Value("float16"), length=D),
            "views": Array2D((L, D), "float32"),
            "label": ClassLabel(names=NAMES),
        }
    )
    rows = {"embedding": vectors.astype(np.float16).tolist(), "views": views.tolist(), "label": labels}
    Dataset.from_dict(rows, fixed).to_parquet(HERE / "datasets_views.parquet")
    table = lancedb.connect(HERE / "lance").create_table(
        "t", [{"vector": vectors[row], "label": NAMES[labels[row]], "id": f"s{row:02d}"} for row in range(N)]
    )
    pq.write_table(table.to_arrow(), HERE / "lance.parquet")
    with pa.ipc.new_file(HERE / "lance.arrow", table.to_arrow().schema) as writer:
        writer.write_table(table.to_arrow())
    shutil.rmtree(HERE / "lance")
    samples = []
    for row in range(N):
        stream = io.BytesIO()  # as FiftyOne's VectorField keeps it
        np.save(stream, vectors[row], allow_pickle=False)
        samples.append(
            {
                "_id": {"$oid": f"{row:024x}"},
                "filepath": f"data/{row:02d}.jpg",
                "tags": ["train" if row < 8 else "test"],
                "ground_truth": {"_cls": "Classification", "label": NAMES[labels[row]], "confidence": None},
                "embedding": json.loads(json_util.dumps(zlib.compress(stream.getvalue()))),
            }
        )
    (HERE / "fiftyone").mkdir()
    (HERE / "fiftyone" / "samples.json").write_text(json.dumps({"samples": samples}))


if __name__ == "__main__":
    main()
