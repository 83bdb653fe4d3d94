"""The plan of the house, checked: floors, circles, who may import what, how long things are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "psp_ray"
FLOORS = (
    "core",
    "config",
    "clip",
    "storage",
    "data",
    "features",
    "neighbors",
    "posterior",
    "learn",
    "selftrain",
    "policy",
    "acquisition",
    "labels",
    "report",
    "run",
    "actors",
    "studies",
    "web",
    "export",
    "cli",
)
"""Rooms from the ground up: a room imports from lower ones and itself only."""
ALGORITHMS = FLOORS[: FLOORS.index("report")]
"""Rooms that never import ray, at no level of imports of their own."""
ROOT_MODULES = {"__init__", "__main__", "main"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of every import in a file, those inside functions included, those for type checkers not."""
    tree = parsed(path)
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else node.module), node.lineno
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).parts[: -node.level])
            yield f"{package}.{node.module}" if node.module else package, node.lineno


def room(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def test_the_root_holds_entry_points_only():
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_MODULES
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= set(FLOORS), "give the new room a floor in FLOORS"


def test_no_import_runs_up():
    rising = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for name, path in MODULES.items()
        if room(name) in FLOORS
        for target, line in imports(path)
        if target.startswith("psp_ray.") and room(target) in FLOORS
        if FLOORS.index(room(target)) > FLOORS.index(room(name))
    ]
    assert not rising, "\n".join(rising)


def test_no_circles():
    graph = {name: {t for t, _ in imports(path) if t in MODULES and t != name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise AssertionError("circle: " + " -> ".join((*above[above.index(name) :], name)))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_algorithms_never_import_ray():
    guilty = [
        f"{path.relative_to(ROOT)}:{line}"
        for name, path in MODULES.items()
        if room(name) in ALGORITHMS
        for target, line in imports(path)
        if target.split(".")[0] == "ray"
    ]
    assert not guilty, "\n".join(guilty)


@pytest.mark.parametrize(("kind", "most"), [("function", 60), ("class", 200), ("file", 400)])
def test_nothing_is_too_long_to_read(kind: str, most: int):
    long = []
    for path in MODULES.values():
        text = path.read_text(encoding="utf-8")
        if kind == "file" and text.count("\n") > most:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        kinds = {"function": (ast.FunctionDef, ast.AsyncFunctionDef), "class": (ast.ClassDef,), "file": ()}[kind]
        for node in ast.walk(parsed(path)):
            if isinstance(node, kinds) and node.end_lineno and node.end_lineno - node.lineno + 1 > most:
                length = node.end_lineno - node.lineno + 1
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert not long, "\n".join(long)
