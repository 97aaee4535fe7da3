"""The exception tree is the one that is drawn; code decides by an error's class; errors cross process borders whole."""

import ast
import errno
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmface import errors
from mmface.errors import (
    CredentialsError,
    MMFaceError,
    ServiceError,
    StoreFullError,
    UnhealthyModelError,
    UnreachableError,
)
from serve.http.errors import MemoryShortageError, OverloadedError

ROOT = Path(__file__).parents[2]
PACKAGES = ("mmface", "serve", "flows", "ray_jobs")
WORDS = ("field", "message")  # of an error: for people
TESTS_OF_TEXT = ("startswith", "endswith", "find", "index", "count")


def test_the_drawn_tree_is_the_class_tree() -> None:
    assert errors.__doc__ is not None
    drawn, path = set(), list[str]()
    for line in errors.__doc__.splitlines():
        found = re.match(r"    (?P<indent>[|` -]*)(?P<name>[A-Z]\w+Error) +(?P<meaning>\S.*)$", line)
        if found:
            depth = len(found["indent"]) // 4
            path[depth:] = [found["name"]]
            drawn.add(tuple(path))
    assert drawn == set(_paths(MMFaceError, ()))


def test_no_code_decides_by_the_field_or_the_message_of_an_error() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in _decisions(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "error.field == 'a'",
        "'a' != error.field",
        "error.field in ('a', 'b')",
        "'a' in error.message",
        "error.field.startswith('a')",
        "match error.field:\n    case 'a': pass",
    ],
)
def test_a_decision_by_a_field_is_found(code: str) -> None:
    assert len(list(_decisions(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ["error.field is None", "log(error.message)", "raise Error(error.message, field=error.field)"]
)
def test_a_field_may_be_passed_on(code: str) -> None:
    assert not list(_decisions(ast.parse(code)))


@pytest.mark.parametrize("kind", [CredentialsError, StoreFullError, UnhealthyModelError, UnreachableError])
def test_the_kinds_of_service_errors_share_one_code_and_keep_their_class_in_a_pickle(kind: type[ServiceError]) -> None:
    copy = _sent(kind("why; do this", field="MMFACE_HOME"))
    assert type(copy) is kind
    assert (copy.code, copy.field, str(copy)) == ("service_unavailable", "MMFACE_HOME", "MMFACE_HOME: why; do this")


def test_the_errors_of_the_http_service_survive_a_pickle() -> None:
    queue = _sent(OverloadedError("3 requests wait", retry_after_s=7.5))
    assert (type(queue), queue.retry_after_s) == (OverloadedError, 7.5)
    assert type(_sent(MemoryShortageError("out of memory"))) is MemoryShortageError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_that_fails_for_lack_of_room_is_a_full_store(number: int) -> None:
    assert type(errors.disk_error(OSError(number, "no room"), "why", field="TMPDIR")) is StoreFullError


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "not allowed"), ValueError("28")])
def test_a_write_that_fails_for_another_reason_is_not_a_full_store(error: Exception) -> None:
    assert type(errors.disk_error(error, "why", field="TMPDIR")) is ServiceError


def _sent(error: MMFaceError) -> Any:
    """The error as another process receives it."""
    return pickle.loads(pickle.dumps(error))  # noqa: S301


def _paths(kind: type[MMFaceError], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Each class of ``mmface.errors`` as the names from the root down to it."""
    path = (*above, kind.__name__)
    yield path
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _paths(child, path)


def _decisions(tree: ast.AST) -> Iterator[ast.expr]:
    """Comparisons, text tests and ``match`` statements whose subject is an attribute named in ``WORDS``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and not all(isinstance(one, ast.Is | ast.IsNot) for one in node.ops):
            if any(map(_is_words, (node.left, *node.comparators))):
                yield node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TESTS_OF_TEXT:
            if _is_words(node.func.value):
                yield node
        elif isinstance(node, ast.Match) and _is_words(node.subject):
            yield node.subject


def _is_words(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in WORDS
