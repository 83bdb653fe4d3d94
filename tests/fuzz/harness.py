"""Seeds of every kind of input, ways to spoil them, and what reads them.

A case is (reader, bytes). Reading must end in an answer or in one of our own errors, in one line without control
characters; anything else is a hole. `python -m tests.fuzz --cases 10000` prints the table.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import save

from psp_ray.core.errors import UserError
from psp_ray.core.tables import TableError, read_table
from psp_ray.core.words import printable

TEXTS = ["", "=1+1", "../../x", "\0", "\x1b[2J", "-1", "NaN", "None", "é", "e\u0301", "9" * 400, "x" * 300, "::", "~x"]
TEXTS += [
    "zip://x::y",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x",
    "\ufeff",
    "'",
    '"',
    "{",
    "[" * 50,
    "true",
    "1e999",
]
JUNK = [b"", b"\0", b"\xff", b"\xff\xfe", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\r", b"'", b"-1", b"1e999"]
JUNK += [b"null", b"[]", b"{}", b"\x80\x02", b"PK\x03\x04", b"\xed\xa0\x80", b"9" * 30, b"\x1b]0;x\x07"]


@dataclass(frozen=True)
class Reader:
    """Reads a file. `seeds` are whole contents that it takes; `suffix` is the file's; `errors` are its own."""

    name: str
    suffix: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...] = (UserError,)


@dataclass
class Tally:
    """What became of the cases: by reader and outcome; `holes` are tracebacks, with the bytes that led there."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    holes: list[tuple[str, str, bytes]] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return sum(self.counts.values())

    def table(self) -> str:
        names = sorted({name for name, _ in self.counts})
        lines = [f"{'reader':22} {'cases':>7} {'read':>7} {'refused':>8} {'holes':>6}"]
        for name in (*names, "all"):
            row = [
                sum(n for (who, what), n in self.counts.items() if name in (who, "all") and what == kind)
                for kind in ("read", "refused", "hole")
            ]
            lines.append(f"{name:22} {sum(row):7,} {row[0]:7,} {row[1]:8,} {row[2]:6,}")
        return "\n".join(lines)


# ---- spoiling --------------------------------------------------------------------------------------------------------


def spoiled(data: bytes, draw: random.Random) -> bytes:
    """`data` with one to four mutations: bytes, pieces, or values inside of JSON."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice(_WAYS)(data, draw)
    return data


def _flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 8))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(data: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return draw.choice((data[:start], data[end:], data[:start] + data[end:], data[:start] + data[start:end] * 2))


def _insert(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data) + 1)
    junk = draw.choice((*JUNK, draw.randbytes(8), draw.choice(TEXTS).encode("utf-8", "replace")))
    return data[:place] + junk + data[place + draw.choice((0, 0, len(junk))) :]


def _swap_words(data: bytes, draw: random.Random) -> bytes:
    words = data.split(b",")
    draw.shuffle(words)
    return b",".join(words)


def _json_value(data: bytes, draw: random.Random) -> bytes:
    """One value somewhere inside of a JSON document, also of a safetensors header, becomes another."""
    head = data[8 : 8 + int.from_bytes(data[:8], "little")] if data[8:9] == b"{" and len(data) < 1 << 20 else b""
    try:
        document = json.loads(head or data)
    except (ValueError, RecursionError):
        return _insert(data, draw)
    changed = json.dumps(_other(document, draw)).encode()
    return len(changed).to_bytes(8, "little") + changed + data[8 + len(head) :] if head else changed


def _other(value: object, draw: random.Random) -> object:
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value, key=str))
        if draw.random() < 0.2:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: _other(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        place = draw.randrange(len(value))
        return [*value[:place], _other(value[place], draw), *value[place + 1 :]]
    wild: list[object] = [None, True, -1, 0, 1.5, 1e308, 10**30, "", [], {}, [[]], {"a": None}, draw.choice(TEXTS)]
    return draw.choice(wild)


_WAYS = (_flip, _cut, _insert, _swap_words, _json_value, _json_value)


# ---- running ---------------------------------------------------------------------------------------------------------


def run_case(reader: Reader, data: bytes, folder: Path, tally: Tally) -> None:
    """Read one spoiled content, and note what became of it."""
    file = folder / f"case{reader.suffix}"
    file.write_bytes(data)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            reader.read(file)
        outcome = "read"
    except reader.errors as error:
        outcome = "refused"
        if printable(str(error)) != str(error) or len(str(error)) > 10_000:
            shown = printable(str(error))  # what reaches a terminal goes through it
            outcome = "refused" if len(shown) <= 1500 and "\x1b" not in shown else "hole"
    except Exception:
        outcome = "hole"
        tally.holes.append((reader.name, traceback.format_exc(limit=-3), data))
    tally.counts[reader.name, outcome] += 1


def run(cases: int, seed: int, folder: Path, readers: tuple[Reader, ...]) -> Tally:
    """`cases` spoiled contents, the readers in turn; the same seed gives the same cases."""
    tally = Tally()
    draw = random.Random(seed)
    for number in range(cases):
        reader = readers[number % len(readers)]
        run_case(reader, spoiled(draw.choice(reader.seeds), draw), folder, tally)
    return tally


# ---- what is read ----------------------------------------------------------------------------------------------------


def all_readers(folder: Path) -> tuple[Reader, ...]:
    """Readers of everything that users or others hand in; what they need besides lies in `folder`."""
    return tuple(_all(folder))


def _all(folder: Path) -> Iterator[Reader]:
    from psp_ray.config.base import read_yaml
    from psp_ray.data.classes import read_classes
    from psp_ray.data.coop import read_split
    from psp_ray.data.decoding import ImageError, decode
    from psp_ray.data.descriptions import load_descriptions
    from psp_ray.data.embedded.classes import read_class_embeddings
    from psp_ray.data.load import load_dataset
    from psp_ray.data.own import initial_labels

    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for number in range(3):
        Image.new("RGB", (9, 7), (80 * number, 20, 30)).save(pictures / f"{number}.png")
    pool = load_dataset(str(pictures), classes="cat,dog")

    listed = folder / "listed"
    shutil.copytree(pictures, listed, dirs_exist_ok=True)

    def load(path: Path) -> object:
        return load_dataset(str(path), classes="cat,dog")

    def load_listed(path: Path) -> object:
        shutil.copy(path, listed / "metadata.jsonl")
        return load_dataset(str(listed), classes="cat,dog")

    def load_beside(path: Path) -> object:
        return load_dataset(str(pictures), classes="cat,dog", exclude=str(path))

    rows = b"path,label,split\npictures/0.png,cat,train\npictures/1.png,dog,test\npictures/2.png,,\n"
    yield Reader("manifest (CSV)", ".csv", (rows, rows.replace(b",", b";"), rows.replace(b"cat", b'"cat"')), load)
    yield Reader("manifest (Parquet)", ".parquet", _parquet_seeds(), load)
    named = [{"file_name": f"{number}.png", "label": label} for number, label in enumerate(("cat", "dog", None))]
    yield Reader("metadata", ".jsonl", ("".join(json.dumps(row) + "\n" for row in named).encode(),), load_listed)
    yield Reader("embeddings (npz)", ".npz", (_npz(),), load)
    yield Reader("embeddings (JSON)", ".jsonl", (b'{"embedding": [1.0, 2.0], "label": "cat"}\n' * 3,), load)
    yield Reader("embeddings (Arrow)", ".arrow", (_arrow(),), load)
    yield Reader("class embeddings", ".parquet", (_classes(),), lambda path: read_class_embeddings(str(path)))
    yield Reader(
        "classes", ".txt", (b"cat: has whiskers\n# x\ndog\n", b"\xef\xbb\xbfa\nb"), lambda p: read_classes(str(p))
    )
    labels = b"sample_id,label\n0.png,cat\n1.png,dog\n2.png,\n"
    yield Reader("initial labels", ".csv", (labels,), lambda path: initial_labels(pool, str(path)))
    yield Reader("exclude", ".txt", (b"0.png\n1.png\n", b"sample_id,why\n1.png,blurred\n"), load_beside)
    yield Reader("table", ".csv", (labels, rows), lambda path: read_table(path.read_bytes()), (TableError,))
    split = {"train": [["0.png", 0, "cat"], ["1.png", 1, "dog"]], "val": [], "test": [["2.png", 1, "dog"]]}
    yield Reader("split file", ".json", (json.dumps(split).encode(),), read_split)
    phrases = json.dumps({"cat": ["a", "b"], "dog": ["c"]}).encode()
    yield Reader("descriptions", ".json", (phrases,), lambda path: load_descriptions(str(path)))
    yield Reader(
        "settings", ".yaml", (b"dataset: digits\nrounds: 3\ntau: [1, 2]\n",), lambda p: read_yaml(str(p), "--config")
    )
    yield Reader("image", ".img", _image_seeds(), lambda path: decode(path.read_bytes()), (ImageError,))
    yield from _exchange(folder)
    yield from _models(folder)


def _exchange(folder: Path) -> Iterator[Reader]:
    """What comes back from people: tables and Label Studio's exports."""
    from psp_ray.data.dataset import MANIFEST_SCHEMA
    from psp_ray.labels import Item
    from psp_ray.labels.annotations import Unreadable, read_export
    from psp_ray.labels.label_studio import export_tasks, import_annotations
    from psp_ray.labels.layout import Layout
    from psp_ray.labels.query import read_answers

    names = ["0.png", "1.png"]
    paths = [str(folder / "pictures" / name) for name in names]
    table = pa.table({"sample_id": names, "path": paths, "image": [None] * 2, "split": ["pool"] * 2}, MANIFEST_SCHEMA)
    run = folder / "run"
    Layout(table).write(run / "round_01", [Item(name, f"{i:032x}", 1) for i, name in enumerate(names)])
    query = (run / "round_01" / "query.csv").read_bytes()

    def back(path: Path) -> object:
        (run / "round_01" / "query.csv").write_bytes(query)
        return import_annotations(run, ["cat", "dog"], path)

    def out(path: Path) -> object:
        (run / "round_01" / "query.csv").write_bytes(path.read_bytes())
        return export_tasks(run, ["cat", "dog"], out=folder / "tasks.json")

    result = {"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
    annotation = {"id": 1, "result": [result], "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z"}
    task = {"id": 1, "annotations": [annotation], "predictions": [], "data": {"image": "x", "sample_id": "0.png"}}
    low = {"id": 2, "image": "x", "sample_id": "1.png", "class": "dog", "annotator": 1}
    seeds = (json.dumps([task, task]).encode(), json.dumps([low]).encode(), json.dumps({"tasks": [task]}).encode())

    def parse(path: Path) -> object:
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return None
        found = read_export(content)
        return found.decided(), found.opinions()

    yield Reader("annotations", ".json", seeds, back)
    yield Reader("annotations (parsed)", ".json", seeds, parse, (Unreadable,))
    yield Reader(
        "query.csv", ".csv", (query, query.replace(b",\n", b",cat\n")), lambda p: read_answers(p, ["cat", "dog"])
    )
    yield Reader("query.csv, to tasks", ".csv", (query,), out)


def _models(folder: Path) -> Iterator[Reader]:
    """Weights, their settings, and what runs have learned."""
    import torch

    from psp_ray.clip.preprocess import Preprocessing
    from psp_ray.clip.spec import BackboneSpec, resolve
    from psp_ray.clip.weights import openai_form, read_checkpoint, safetensors_metadata
    from psp_ray.run.prompts import FORMAT, read_prompts

    state = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    archive, pickle = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": tensors}, archive)
    torch.save(tensors, pickle, _use_new_zipfile_serialization=False)
    seeds = (save(state, {"preprocess_cfg": '{"size": 32}'}), archive.getvalue(), pickle.getvalue())

    def weights(path: Path) -> object:
        return read_checkpoint(path), openai_form(path), safetensors_metadata(path)

    yield Reader("weights", ".bin", seeds, weights)
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    shown = {"mean": [0.5] * 3, "std": [0.2] * 3, "size": [3, 32, 32], "interpolation": "bicubic", "fill_color": 0}
    place = folder / "model"
    place.mkdir(exist_ok=True)
    (place / "open_clip_model.safetensors").write_bytes(save(state))

    def architecture(path: Path) -> object:
        (place / "open_clip_config.json").write_bytes(path.read_bytes())
        return resolve(BackboneSpec(f"local-dir:{place}"))

    yield Reader(
        "model settings", ".json", (json.dumps({"model_cfg": model, "preprocess_cfg": shown}).encode(),), architecture
    )

    def preprocessing(path: Path) -> object:
        try:
            given = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return None
        return Preprocessing.from_dict(given) if isinstance(given, dict) else None

    yield Reader("preprocessing", ".json", (json.dumps(shown).encode(),), preprocessing)
    classifier = {
        "class_embeddings": np.eye(2, 3, dtype=np.float32),
        "contexts": np.zeros((1, 2, 3), np.float32),
        "logit_scale": np.asarray(50, np.float32),
        "bias": np.zeros(2, np.float32),
        "temperature": np.asarray(1, np.float32),
    }
    header = {"format": FORMAT, "classes": '["cat", "dog"]', "model": "psp-lite", "checkpoint": "null"}
    prompts = save(classifier, header | {"image_size": "96", "weights_hash": "0" * 32, "backbone": "{}"})
    yield Reader("prompts", ".safetensors", (prompts,), read_prompts)


def _parquet_seeds() -> tuple[bytes, ...]:
    tables = [
        pa.table({"path": ["pictures/0.png", "pictures/1.png"], "label": ["cat", "dog"]}),
        pa.table({"path": ["pictures/0.png", "pictures/1.png"], "label": [[0], [1]], "split": ["train", "test"]}),
        pa.table({"embedding": [[1.0, 2.0], [2.0, 1.0]], "label": [0.0, 1.0], "sample_id": ["a", "b"]}),
    ]
    return tuple(_parquet(table) for table in tables)


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none")
    return bytes(sink.getvalue().to_pybytes())


def _classes() -> bytes:
    return _parquet(pa.table({"class": ["cat", "dog"], "embedding": [[1.0, 0.0], [0.0, 1.0]]}))


def _arrow() -> bytes:
    table = pa.table({"embedding": [[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]], "label": ["cat", "dog", None]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(
        file, embedding=np.eye(4, 3, dtype=np.float32), label=np.array([0, 1, 0, 1]), sample_id=np.array([*"abcd"])
    )
    return file.getvalue()


def _image_seeds() -> tuple[bytes, ...]:
    image = Image.new("RGB", (24, 16), (200, 30, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for kind, mode, more in (
        ("PNG", "RGB", {}),
        ("PNG", "I;16", {}),
        ("PNG", "LA", {}),
        ("JPEG", "RGB", {"exif": exif}),
        ("TIFF", "F", {}),
        ("GIF", "P", {}),
        ("WEBP", "RGBA", {}),
        ("BMP", "1", {}),
        ("PPM", "RGB", {}),
    ):
        file = io.BytesIO()
        (Image.new("I;16", (24, 16)) if mode == "I;16" else image.convert(mode)).save(file, kind, **more)
        made.append(file.getvalue())
    return tuple(made)


def main(cases: int, seed: int, folder: Path) -> Tally:
    """Run and print the table, and the first holes."""
    begun = time.perf_counter()
    tally = run(cases, seed, folder, all_readers(folder))
    print(
        f"{tally.cases:,} mutated inputs (seed {seed}) in {time.perf_counter() - begun:.0f} s, {len(tally.holes)} holes"
    )
    print(tally.table())
    for name, trace, data in tally.holes[:10]:
        print(f"--- {name}: {data[:300]!r}\n{trace}")
    return tally
