"""Garbage: documents with a part changed, through the functions that read them."""

from __future__ import annotations

import json
import os
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from tests.drill.world import World

_CSV = b'sample_id,path,label\na.png,/x/a.png,cat\nb.png,/x/b.png,dog\n"c,1.png",,skip\nd.png,,\n'


class Mutations:
    """Documents of the finished run `base` and of the interrupted one `half`; what is changed, `pick` draws."""

    def __init__(self, base: Path, half: Path, folder: Path, pick: random.Random) -> None:
        self.base, self.half, self.folder, self.random = base, half, folder, pick

    def tell(self, count: int, world: World) -> None:
        """`count` of them, one after the other in this process, noted in the world's table."""
        from psp_ray.core.errors import UserError

        readers, newest = self._readers(), self._newest()
        for number in range(count):
            kind = sorted(readers)[number % len(readers)]
            source, read = readers[kind]
            self._lay(kind, self.changed(kind, _CSV if source is None else source.read_bytes()), newest)
            what = ""
            try:
                read()
                outcome = "read"
            except UserError as error:
                outcome = "one line" if "\n" not in str(error) else "TRACEBACK"
                what = str(error)
            except Exception:
                outcome, what = "TRACEBACK", traceback.format_exc()[-400:]
            world.note("mutated", kind, outcome, what)

    def _newest(self) -> Path:
        return max((self.half / "checkpoints").glob("round_*"))

    def _lay(self, kind: str, data: bytes, newest: Path) -> None:
        """A folder with the changed document in its place."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if kind != "state.json":
            (self.folder / kind).write_bytes(data)
            return
        here = self.folder / "checkpoints" / newest.name
        shutil.copytree(newest, here)
        (here / "COMPLETE").write_bytes(b"")
        (here / "state.json").write_bytes(data)

    def _readers(self) -> dict[str, tuple[Path | None, Callable[[], object]]]:
        """Each document, where a whole one is, and who reads it."""
        from psp_ray.config.config import Config
        from psp_ray.export.classifier import Classifier
        from psp_ray.labels.query import read_answers
        from psp_ray.run.checkpoint import load_latest
        from psp_ray.run.folder import finished_summary, open_out
        from psp_ray.run.state import PoolNames
        from psp_ray.run.state_files import from_checkpoint

        folder = self.folder
        config = Config(**_flat(json.loads((self.base / "run.json").read_text())["identity"]), resume=True)
        labels = pq.read_table(self.base / "pool_predictions.parquet")
        newest = self._newest()
        names = PoolNames(labels["sample_id"].to_pylist(), ["0" * 32] * labels.num_rows, ["blue", "green", "red"])
        return {
            "run.json": (self.base / "run.json", lambda: open_out(config, folder)),
            "summary.json": (self.base / "summary.json", lambda: finished_summary(folder)),
            "prompts.safetensors": (
                self.base / "prompts.safetensors",
                lambda: Classifier.load(folder / "prompts.safetensors"),
            ),
            "query.csv": (None, lambda: read_answers(folder / "query.csv", ["cat", "dog"])),
            "state.json": (
                newest / "state.json",
                lambda: from_checkpoint(load_latest(folder / "checkpoints"), names, folder),
            ),
        }

    def changed(self, kind: str, data: bytes) -> bytes:
        pick = self.random
        if kind == "prompts.safetensors":
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length])
            header["__metadata__"] = (
                self.tree(header["__metadata__"]) if pick.random() < 0.7 else header["__metadata__"]
            )
            text = json.dumps(header).encode() if pick.random() < 0.9 else self.bytes(data[8 : 8 + length])
            return len(text).to_bytes(8, "little") + text + data[8 + length :]
        if kind == "query.csv" or pick.random() < 0.3:
            return self.bytes(data)
        content = json.loads(data)
        content.pop("checksum", None)
        return json.dumps(self.tree(content)).encode()

    def bytes(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randrange(len(changed) + 1)
            changed[at : at + self.random.randint(0, 6)] = self.random.choice(
                [b"", b"\x00", b'"', b",", b"\n", b"\xff\xfe", b"{", b"]", b"9" * 40, os.urandom(3)]
            )
        return bytes(changed)

    def tree(self, value, depth: int = 0):
        """The same JSON with one node somewhere replaced, removed or renamed."""
        pick = self.random
        if isinstance(value, (dict, list)) and value and (depth == 0 or pick.random() < 0.6):
            place = pick.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
            changed = dict(value) if isinstance(value, dict) else list(value)
            if pick.random() < 0.25:
                changed.pop(place)
            elif isinstance(value, dict) and pick.random() < 0.1:
                changed[f"{place}x"] = changed.pop(place)
            else:
                changed[place] = self.tree(value[place], depth + 1)
            return changed
        return pick.choice([None, True, -1, 0, 1.5, 1e308, "", "x", "null", [], {}, [1], {"a": 1}, "\x00", 10**30])


def _flat(identity: dict) -> dict:
    return {key: value for key, value in identity.items() if value is not None}
