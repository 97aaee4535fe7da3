"""Small stand-in weights that ship with the package, each of the class production uses (§7)."""

from __future__ import annotations

from pathlib import Path

from mmface.errors import InputError

PREFIX = "zoo:"
NAMES = ("vae", "clip", "parser", "sketch")


def resolve(name: str) -> str:
    """``zoo:<name>`` to its folder in the package; any other name unchanged.

    Raises:
        InputError: no such zoo name.
    """
    if not name.startswith(PREFIX):
        return name
    short = name.removeprefix(PREFIX)
    if short not in NAMES:
        known = ", ".join(PREFIX + one for one in NAMES)
        raise InputError(f"no zoo network {name!r}; known: {known}", field="components")
    return str(Path(__file__).parent / short)
