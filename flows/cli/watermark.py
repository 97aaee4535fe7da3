"""``mmface watermark check``: does a picture carry the mark of a served one, and what does the mark say?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

ABOUT = """
Reads the invisible mark that a service with serve.watermark puts into its pictures. A mark says that MMFace made the
picture, with which version of which model (mmface runs lists versions and their runs). It outlives the file's
metadata, re-encoding and scaling, not cropping or turning. Exit code 0: every file is marked; 1: some are not.
"""


def add_command(commands: Any) -> None:
    """Wires the command into the parser of ``mmface``."""
    command = commands.add_parser("watermark", help="Find the invisible mark of served pictures.", description=ABOUT)
    command.add_argument("action", choices=["check"])
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument(
        "--model", default="mmface-dit", help="name that a mark is compared with (default: mmface-dit)"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``mmface watermark``."""
    told = [tell(path, arguments.model) for path in arguments.files]
    for path, words in zip(arguments.files, told, strict=True):
        print(f"{path}: {words or 'no mark'}")
    return int(not all(told))


def tell(path: Path, model: str) -> str | None:
    """What a file's mark says, in words; None if there is no mark.

    Raises:
        InputError: the file cannot be read, or is no picture.
    """
    import numpy as np

    from mmface.data.sources import open_image
    from mmface.errors import InputError
    from serve.pictures.watermark import detect, name_code

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror})", field="FILE") from None
    mark = detect(np.asarray(open_image(data, field=str(path)).convert("RGB")))
    if mark is None:
        return None
    known = mark.name == name_code(model)
    name = model if known else f"a model other than {model} (its name's SHA-256 begins with {mark.name})"
    version = f"version {mark.version} of" if mark.version else "a preview or an unregistered version of"
    return f"AI-made: painted by MMFace, {version} {name}"
