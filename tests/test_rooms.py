"""The rooms of the code: no import circle, no crowded room, no two modules of one name (DESIGN §2)."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mmface", "serve", "flows", "ray_jobs")
LARGEST_ROOM = 15
# A section of the recipe is called as the room that it configures, a command as what it commands.
MIRRORS = ("mmface.config.", "flows.cli.")
LOADER = "mmface.bundle"  # what MLflow loads registered versions with


def modules(package: str) -> dict[str, Path]:
    """Every module of a package with its file; a package is named without ``__init__``."""
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return dict(zip(names, files, strict=True))


def imported(file: Path, known: Set[str]) -> Iterator[str]:
    """Modules that a file imports anywhere: inside functions and for annotations too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from inside & known
            if inside - known:
                yield node.module


def circle(graph: Mapping[str, Set[str]]) -> list[str]:
    """The modules of an import circle, in the order of its imports; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    files = modules(package)
    assert len(files) > 10
    assert circle({name: set(imported(file, files.keys())) for name, file in files.items()}) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_an_import_inside_a_function_counts(tmp_path: Path) -> None:
    file = tmp_path / "lazy.py"
    file.write_text("def late():\n    from mmface.store import s3, Store\n")
    assert set(imported(file, {"mmface.store", "mmface.store.s3"})) == {"mmface.store", "mmface.store.s3"}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_is_crowded(package: str) -> None:
    rooms: defaultdict[Path, int] = defaultdict(int)
    for file in modules(package).values():
        rooms[file.parent] += 1
    crowded = {room.relative_to(ROOT).as_posix(): count for room, count in rooms.items() if count > LARGEST_ROOM}
    assert not crowded


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_modules_of_a_package_have_one_name(package: str) -> None:
    """Mirrors aside; the main module of a room may have the room's name."""
    named: defaultdict[str, list[str]] = defaultdict(list)
    for name in modules(package):
        room, _, own = name.rpartition(".")
        mirrors = name == LOADER or name.startswith(MIRRORS)
        if not mirrors and own not in (room.rpartition(".")[2], "__main__"):
            named[own].append(name)
    assert [names for names in named.values() if len(names) > 1] == []
