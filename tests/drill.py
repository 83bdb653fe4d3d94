"""A drill: runs are killed, starved of their disk, damaged and fed with garbage, and have to come out right.

    python -m tests.drill --kills 200 --ray-kills 30 --writes 200 --damage 150 --mutations 10000 --log drill.jsonl

Every case is a process of its own, forked from this one, so that a kill is a kill and imports are paid for once. What
a case does depends on the seed and its own number alone: with `--log` the same command goes on where it was stopped.
Printed is a table of fault, stage and outcome with counts. Outcomes:

    same            finished, bit for bit as the run that nothing happened to
    one line, same  exit code 2 and one line; resumed it ends the same
    went on, same   finished the same in spite of it
    one line        a damaged folder or input was refused
    read            an input was taken (mutations only)
    OTHER           finished with another result
    NOT RESUMED     refused to go on
    TRACEBACK       an error that nobody had thought of
"""

from __future__ import annotations

import argparse
import builtins
import errno
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

ROUNDS = 3
KILLED = 137
TABLES = ("labels", "policy", "pool_predictions")
OPERATIONS = ("open", "replace", "mkdir", "symlink", "link", "unlink", "rmdir", "fsync")
ON_RAY = ("--runner", "ray", "--workers", "1", "--no-html")
IN_A_ROW = 4
"""Strikes in a case: a run is resumed after each."""
AT_ONCE = 50
"""Mutations in a case."""
FAULTS = {"disk full": errno.ENOSPC, "read-only": errno.EROFS, "I/O error": errno.EIO}


@dataclass
class World:
    """A folder of pictures, a model, a warm cache, and what an undisturbed run makes of them."""

    root: Path
    data: Path
    model: str
    table: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def cases(self) -> int:
        return sum(self.table.values())

    def options(self, out: Path, *more: str) -> list[str]:
        given = {
            "dataset": self.data,
            "model": self.model,
            "cache": self.root / "cache",
            "rounds": ROUNDS,
            "labels-per-round": 3,
            "learning-steps": 3,
            "update-steps": 2,
            "views": 2,
            "confidence-min": 0.0,
            "uncertainty-max": 1.0,
            "runner": "inline",
            "threads": 1,
            "out": out,
        }
        return [*(word for key, value in given.items() for word in (f"--{key}", str(value))), *more]

    def note(self, fault: str, stage: str, outcome: str, what: str = "") -> None:
        self.table[fault, stage, outcome] += 1
        if outcome.isupper():
            self.failures.append(f"{fault}, {stage}: {what}")

    def show(self) -> str:
        lines = [f"{'fault':14}{'stage':46}{'outcome':12}{'count':>7}"]
        rows = sorted(self.table.items())
        lines += [f"{fault:14}{stage:46}{outcome:12}{count:>7,}" for (fault, stage, outcome), count in rows]
        bad = sum(count for (_, _, outcome), count in self.table.items() if outcome.isupper())
        return "\n".join([*lines, f"{self.cases():,} cases, {bad:,} of them bad"])


# -- processes -------------------------------------------------------------------------------------------------------


def forked(work) -> tuple[int, str]:
    """(exit code, what it printed) of `work` in a process of its own."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            # What a test runner put there would keep what is printed.
            sys.stdout, sys.stderr = (os.fdopen(place, "w", buffering=1, closefd=False) for place in (1, 2))
            code = 1
            try:
                work()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                with suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")


def command(words):
    from psp_ray.cli.main import main

    return lambda: main(words)


@contextmanager
def disturbed(root: Path, at: int, strike):
    """The `at`-th thing that writes below `root` meets `strike`; gives a list whose length counts them.

    Where `strike` gives False there was nothing to strike at yet, and the next one meets it.
    """
    seen: list[str] = []
    struck = [at < 0]
    whole = {
        (builtins, "open"): builtins.open,
        (io, "open"): io.open,
        **{(os, name): getattr(os, name) for name in OPERATIONS},
    }

    def writes(name: str, arguments, keywords) -> bool:
        if name == "fsync":
            return True
        target = arguments[0] if arguments else ""
        if not isinstance(target, (str, os.PathLike)) or not os.fspath(target).startswith(str(root)):
            return False
        if name == "open" and len(arguments) > 1 and isinstance(arguments[1], int):
            return bool(arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if name == "open":
            mode = arguments[1] if len(arguments) > 1 else keywords.get("mode", "r")
            return any(letter in str(mode) for letter in "wax+")
        return True

    def patched(name: str, call):
        def wrapper(*arguments, **keywords):
            if writes(name, arguments, keywords):
                seen.append(name)
                if len(seen) >= at and not struck[0]:
                    struck[0] = True
                    struck[0] = strike(arguments[0] if arguments else None) is not False
            return call(*arguments, **keywords)

        return wrapper

    for (place, name), call in whole.items():
        setattr(place, name, patched(name, call))
    try:
        yield seen
    finally:
        for (place, name), call in whole.items():
            setattr(place, name, call)


def die(path) -> None:
    os._exit(KILLED)


def fail(code: int):
    def strike(path) -> None:
        raise OSError(code, os.strerror(code), path if isinstance(path, (str, os.PathLike)) else None)

    return strike


def kill_an_actor(pick: random.Random):
    """Kill one of the processes in which Ray holds actors; False while there is none."""

    def strike(path) -> bool:
        if "ray" not in sys.modules:
            return False
        import psutil  # comes with Ray

        actors = [child for child in psutil.Process().children(recursive=True) if "ray::" in " ".join(_line(child))]
        if not actors:
            return False
        victim = pick.choice(sorted(actors, key=lambda process: process.pid))
        print(f"\nVICTIM {' '.join(_line(victim))}")
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
        return True

    return strike


def _line(process) -> list[str]:
    import psutil

    with suppress(psutil.Error):
        return process.cmdline()
    return []


# -- results ---------------------------------------------------------------------------------------------------------


def result_of(out: Path):
    """All that a run computed, without times and where; None where it has not finished."""
    try:
        summary = json.loads((out / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    if summary.get("status") != "finished":
        return None
    for key in ("wall_seconds", "versions", "runner"):
        summary.pop(key, None)
    for row in summary["rounds"]:
        row.pop("seconds", None)
        row.pop("wall_seconds", None)
    try:
        tables = [pq.read_table(out / f"{name}.parquet").to_pydict() for name in TABLES]
        return repr(summary), repr(tables), (out / "prompts.safetensors").read_bytes()
    except (OSError, ValueError):  # "finished", but with a file gone or damaged
        return None


def told(output: str) -> str:
    """What a failed command said: one line, or not."""
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    return "one line" if len(lines) == 1 and "Traceback" not in output else "TRACEBACK"


class Drill:
    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.base = world.root / "whole"
        code, output = forked(command(world.options(self.base)))
        assert code == 0, output
        self.wanted = result_of(self.base)
        assert self.wanted is not None
        self.number = 0
        self.counted: dict[tuple[str, ...], int] = {}

    def fresh(self) -> Path:
        self.number += 1
        return self.world.root / "cases" / f"{self.number:05d}"

    def operations(self, more: tuple[str, ...]) -> int:
        """How often a run with these options writes, in this process."""
        if more not in self.counted:
            self.counted[more] = self.count(more)
        return self.counted[more]

    def count(self, more: tuple[str, ...]) -> int:
        out = self.fresh_of(f"count{len(self.counted)}")

        def work() -> None:
            with disturbed(out, -1, die) as seen:
                try:
                    command(self.world.options(out, *more))()
                finally:
                    print(f"\nOPERATIONS {len(seen)}")

        _, output = forked(work)
        assert result_of(out) == self.wanted, output
        return int(output.rsplit("OPERATIONS", 1)[1].split()[0])

    def page(self) -> tuple[str, ...]:
        """One run in four keeps its page, which takes as long as all the rest."""
        return () if self.random.random() < 0.25 else ("--no-html",)

    def fresh_of(self, name: str) -> Path:
        return self.world.root / "cases" / name

    def place(self, more: tuple[str, ...], number: int = 0) -> tuple[int, str]:
        """Which write is met, and how far in the run that is; the first half where it was resumed `number` times."""
        last = self.operations(more)
        at = self.random.randint(1, last // 2 if number else last)
        tenth = 10 * at // (last + 1) * 10
        return at, f"{'resumed, ' if number else ''}write {tenth}-{tenth + 9} %"

    def resumed(self, out: Path, *more: str) -> tuple[str, str]:
        """What `--resume` makes of a folder: same, OTHER, one line or TRACEBACK; and what it said."""
        code, output = forked(command(self.world.options(out, "--resume", *more)))
        if code == 0:
            return ("same" if result_of(out) == self.wanted else "OTHER"), output
        return told(output), output

    def kill(self) -> None:
        self.in_a_row("kill", die, KILLED)

    def write_error(self) -> None:
        name = self.random.choice(sorted(FAULTS))
        self.in_a_row(name, fail(FAULTS[name]), 2)

    def in_a_row(self, fault: str, strike, ends: int) -> None:
        """A run that is struck, and struck again where it is resumed, `IN_A_ROW` times; then it may go on.

        Every strike has to end it with the exit code `ends`, or not at all; the end has to be the same as ever.
        """
        more, out = self.page(), self.fresh()
        met: list[tuple[str, str]] = []
        for number in range(IN_A_ROW + 1):
            at, stage = self.place(more, number) if number < IN_A_ROW else (-1, "left alone")
            words = self.world.options(out, *more, *(["--resume"] if number else []))

            def work(at: int = at, words: list[str] = words) -> None:
                with disturbed(out, at, strike) as seen:
                    try:
                        command(words)()
                    finally:
                        if 0 < at <= len(seen):
                            print("\nSTRUCK")

            code, output = forked(work)
            if code == 0:
                outcome = "same" if result_of(out) == self.wanted else "OTHER"
                met += [(stage, "went on, ")] if "\nSTRUCK" in output else []
                break
            if number == IN_A_ROW or code != ends or (ends == 2 and told(output) != "one line"):
                outcome = "TRACEBACK" if told(output) == "TRACEBACK" else "NOT RESUMED"
                met.append((stage, ""))
                break
            met.append((stage, "" if ends == KILLED else "one line, "))
        for stage, how in met:
            what = f"{[stage for stage, _ in met]}: {output[-500:]}"
            self.world.note(fault, stage, outcome if outcome.isupper() else f"{how}{outcome}", what)
        shutil.rmtree(out, ignore_errors=True)

    def ray_kill(self) -> None:
        """The driver of a run on Ray is killed, or one of its actors; three of four go on in one process."""
        driver, out = self.random.random() < 0.5, self.fresh()
        at, stage = self.place(ON_RAY)
        then = ON_RAY if self.random.random() < 0.25 else ("--no-html",)
        strike = die if driver else kill_an_actor(self.random)

        def work() -> None:
            with disturbed(out, at, strike):
                command(self.world.options(out, *ON_RAY))()

        code, output = forked(work)
        fault = f"{'driver' if driver else 'actor'} on Ray"
        if driver and code != KILLED:
            self.world.note(fault, stage, "TRACEBACK" if "Traceback" in output else "not met", output[-300:])
            return
        if code == 0:
            outcome = "same" if result_of(out) == self.wanted else "OTHER"
        elif driver or (code == 2 and told(output) == "one line"):
            again, more = self.resumed(out, *then)
            output += more
            first = "" if driver else "one line, "
            outcome = f"{first}{again}" if again == "same" else f"THEN {again.upper()}"
        else:
            outcome = "TRACEBACK"
        self.world.note(fault, stage, outcome, f"op {at}: {output[-900:]}")
        shutil.rmtree(out, ignore_errors=True)

    def damage(self, started: Path, stage: str) -> None:
        out = self.fresh()
        shutil.copytree(started, out)
        path = self.random.choice(sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock"))
        data = bytearray(path.read_bytes())
        kind = self.random.choice(["cut", "emptied", "deleted", "bit flipped"])
        if kind == "deleted":
            path.unlink()
        elif kind == "emptied" or not data:
            path.write_bytes(b"")
        elif kind == "cut":
            path.write_bytes(data[: self.random.randrange(len(data))])
        else:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            path.write_bytes(data)
        outcome, output = self.resumed(out, *self.page())
        name = path.relative_to(out).as_posix()
        self.world.note(kind, f"{stage}: {_family(name)}", outcome, f"{name}: {output[-500:]}")
        shutil.rmtree(out, ignore_errors=True)

    def half(self) -> Path:
        """A run that was killed in its last round."""
        out = self.fresh_of("half")
        if out.exists():
            return out

        def work() -> None:
            from psp_ray.report.progress import Reporter

            def stage(self, round, name):
                if (round, name) == (ROUNDS, "learn"):
                    os._exit(KILLED)

            Reporter.stage = stage
            command(self.world.options(out))()

        code, output = forked(work)
        assert code == KILLED, output
        return out

    # -- garbage -----------------------------------------------------------------------------------------------------

    def mutations(self, count: int) -> None:
        """Documents with a part changed, through the functions that read them; in one process, `count` cases."""
        from psp_ray.config.config import Config
        from psp_ray.core.errors import UserError
        from psp_ray.export.classifier import Classifier
        from psp_ray.labels.query import read_answers
        from psp_ray.run.checkpoint import load_latest
        from psp_ray.run.folder import finished_summary, open_out
        from psp_ray.run.state import PoolNames
        from psp_ray.run.state_files import from_checkpoint

        half = self.half()
        folder = self.fresh_of("mutated")
        config = Config(**_flat(json.loads((self.base / "run.json").read_text())["identity"]), resume=True)
        labels = pq.read_table(self.base / "pool_predictions.parquet")
        newest = max((half / "checkpoints").glob("round_*"))
        names = PoolNames(labels["sample_id"].to_pylist(), ["0" * 32] * labels.num_rows, ["blue", "green", "red"])
        readers = {
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
        for number in range(count):
            kind = sorted(readers)[number % len(readers)]
            source, read = readers[kind]
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            text = _CSV if source is None else source.read_bytes()
            data = self.changed(kind, text)
            if kind == "state.json":
                shutil.copytree(newest, folder / "checkpoints" / newest.name)
                (folder / "checkpoints" / newest.name / "COMPLETE").write_bytes(b"")
                (folder / "checkpoints" / newest.name / "state.json").write_bytes(data)
            else:
                (folder / kind).write_bytes(data)
            try:
                read()
                outcome = "read"
            except UserError as error:
                outcome = "one line" if "\n" not in str(error) else "TRACEBACK"
                what = str(error)
            except Exception:
                outcome, what = "TRACEBACK", traceback.format_exc()[-400:]
            self.world.note("mutated", kind, outcome, "" if outcome == "read" else what)

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


_CSV = b'sample_id,path,label\na.png,/x/a.png,cat\nb.png,/x/b.png,dog\n"c,1.png",,skip\nd.png,,\n'


def _flat(identity: dict) -> dict:
    return {key: value for key, value in identity.items() if value is not None}


def _family(name: str) -> str:
    parts = name.split("/")
    return f"{parts[0]}/../{parts[-1]}" if len(parts) > 2 else name


def make_world(root: Path) -> World:
    """Pictures, a tiny model and a warm cache below `root`."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from tests.conftest import COLORS, TINY, paint

    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        for number in range(12):
            paint(root / "data" / name / f"{number:02d}.png", color, rng)
    torch.manual_seed(0)
    folder = root / "model"
    folder.mkdir()
    config = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.model.CLIP(embed_dim=24, vision_cfg=TINY["vision_cfg"], text_cfg=TINY["text_cfg"])
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    world = World(root, root / "data", f"local-dir:{folder}")
    from psp_ray.cli.main import main

    try:  # in this process: what is imported and compiled now, no case pays for
        main(world.options(root / "warm"))
    except SystemExit as end:
        if end.code:
            raise
    return world


def plan(kills: int, ray_kills: int, writes: int, damage: int, mutations: int, seed: int) -> list[tuple[str, int]]:
    """(kind, number) of every case, well mixed."""
    counts = {
        "kill": -(-kills // IN_A_ROW),
        "ray_kill": ray_kills,
        "write_error": -(-writes // IN_A_ROW),
        "damage": damage,
        "mutations": -(-mutations // AT_ONCE),
    }
    cases = [(kind, number) for kind, count in counts.items() for number in range(count)]
    random.Random(seed).shuffle(cases)
    return cases


def drill(
    root: Path, cases: list[tuple[str, int]], seed: int = 0, seconds: float = 1e9, log: Path | None = None
) -> World:
    """All cases of a `plan` but those in the log, as long as `seconds` last; the world has the table."""
    world = make_world(root)
    done = _logged(world, log, seed)
    run = Drill(world, seed)
    started = time.monotonic()
    for kind, number in cases:
        if time.monotonic() - started > seconds:
            break
        if (kind, number) in done:
            continue
        run.random = random.Random(f"{seed} {kind} {number}")
        before, bad = world.table.copy(), len(world.failures)
        if kind == "damage":
            run.damage(run.base, "finished") if number % 2 else run.damage(run.half(), "interrupted")
        elif kind == "mutations":
            run.mutations(AT_ONCE)
        else:
            getattr(run, kind)()
        if log is not None:
            noted = [[*row, count] for row, count in (world.table - before).items()]
            line = {"seed": seed, "kind": kind, "number": number, "noted": noted, "bad": world.failures[bad:]}
            with open(log, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
    return world


def _logged(world: World, log: Path | None, seed: int) -> set[tuple[str, int]]:
    """What a drill that was stopped has done, taken up into the table."""
    done = set()
    if log is not None and log.exists():
        for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
            if line["seed"] == seed:
                done.add((line["kind"], line["number"]))
                for fault, stage, outcome, count in line["noted"]:
                    world.table[fault, stage, outcome] += count
                world.failures += line["bad"]
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ray-kills", type=int, default=0)
    parser.add_argument("--writes", type=int, default=50)
    parser.add_argument("--damage", type=int, default=50)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="end after so many")
    parser.add_argument("--log", type=Path, help="append every case to this file, and leave out those in it")
    parser.add_argument("--verbose", action="store_true", help="print what was bad")
    given = parser.parse_args()
    cases = plan(given.kills, given.ray_kills, given.writes, given.damage, given.mutations, given.seed)
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        world = drill(Path(folder), cases, given.seed, given.seconds, given.log)
    if given.verbose:
        print("\n\n".join(world.failures))
    print(world.show())
    sys.exit(bool(world.failures))


if __name__ == "__main__":
    main()
