"""``mmface lineage``: leads from an image to the photographs behind it, and exports lineage as OpenLineage events."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.tables import table
from mmface.errors import InputError

if TYPE_CHECKING:
    from flows.lineage.origins import Claim, Origin
    from mmface.datasets.inventory import Held
    from mmface.store import Store

ABOUT = """
Print where an image comes from: version, MLflow run, bundle, datasets, and the collections of photographs with their
licences. The image's metadata names the version, or its watermark if the metadata was removed. Both inform and prove
nothing, since anybody can write them. Instead of an image, name a registered model or a dataset.
"""
REGISTERED = "models:/"


def add_command(commands: Any) -> None:
    """Adds the command to the command line."""
    command = commands.add_parser(
        "lineage",
        help="Show where an image or a model comes from, back to photographs and licences.",
        description=ABOUT,
    )
    command.add_argument("source", metavar="IMAGE|models:/NAME@ALIAS|STAGE/FINGERPRINT")
    command.add_argument("--json", action="store_true", help="print JSON")
    text = "write the datasets as OpenLineage events, one JSON object a line; - for stdout, without the text"
    command.add_argument("--openlineage", metavar="FILE|-", help=text)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``mmface lineage``."""
    from mmface.store import home

    place, path = home(), Path(arguments.source)
    if arguments.source.startswith(REGISTERED):
        return _show(arguments, place, None, *_version(arguments.source))
    if path.is_file() or path.suffix:
        from flows.lineage.origins import read_claim

        claim = read_claim(_read(path), str(path))
        return _show(arguments, place, claim, claim.model, claim.version)
    if not arguments.openlineage:
        message = f"is no image; mmface datasets show {arguments.source} shows a dataset, --openlineage exports it"
        raise InputError(message, field=arguments.source)
    from mmface.datasets.inventory import find, scan

    return _export(place, [find(scan(place), arguments.source).key], arguments.openlineage)


def _show(arguments: argparse.Namespace, place: Store, claim: Claim | None, model: str, version: str) -> int:
    """Prints the claim of an image and the origin of its version; the claim alone if the origin is not known."""
    from flows.lineage.origins import origin_of

    origin: Origin | None = None
    try:
        origin = origin_of(model, version, place)
    finally:  # an error is printed after what is known
        if arguments.openlineage != "-" and (claim or origin):
            known = {"image": claim and asdict(claim), "origin": origin and asdict(origin)}
            text = json.dumps(known, indent=2) if arguments.json else "\n".join(_lines(arguments.source, claim, origin))
            print(text, flush=True)
    if arguments.openlineage:
        return _export(place, [f"datasets/{one.name}" for one in origin.datasets], arguments.openlineage)
    return 0


def _lines(source: str, claim: Claim | None, origin: Origin | None) -> Iterator[str]:
    if claim is not None:
        settings = ", ".join(f"{name} {value}" for name, value in claim.settings.items())
        yield f"{source}: made by version {claim.version} of {claim.model}, says its {claim.evidence}"
        if settings:
            yield f"settings  {settings}"
    if origin is None:
        return
    holds = f" ({', '.join(origin.aliases)})" if origin.aliases else ""
    yield f"version   {origin.model} {origin.version}{holds}, registered {origin.registered}"
    yield f"run       {origin.run['name']} {origin.run['id']}, {origin.run['status'].lower()}"
    yield f"bundle    {origin.bundle}"
    yield from (f"{name:9} {value}" for name, value in (origin.facts or {}).items())
    if origin.datasets:
        rows = [[one.name, _counts(one.counts), "" if one.published else "removed"] for one in origin.datasets]
        yield from ("", table(["dataset", "rows", ""], rows))
    if origin.collections:
        rows = [[str(one[name]) for name in ("name", "pictures", "licence", "images")] for one in origin.collections]
        yield from ("", table(["collection", "photographs", "licence", "place"], rows, right=(1,)))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count or name in ("in", "out"))


def _version(name: str) -> tuple[str, str]:
    from mmface.bundles.registry import find_version
    from mmface.bundles.weights import registered

    model, which = registered(name, "source")
    return model, find_version(model, which)[0]


def _export(place: Store, keys: Iterable[str], out: str) -> int:
    """Writes the events of datasets and of everything they were made from, oldest first."""
    from mmface.datasets.inventory import lineage, scan

    held = scan(place)
    known, wanted = {one.key: one for one in held}, set(keys)
    bundles = {one.key for one in held if one.stage == "bundle" and set(one.references) <= wanted}
    for key in [*wanted, *bundles]:
        wanted |= {other for _, other, _ in lineage(held, known[key])} if key in known else set()
    found = sorted(
        (known[key] for key in wanted | bundles if key in known and known[key].manifest), key=lambda one: one.modified
    )
    gone = sorted(key.removeprefix("datasets/") for key in wanted - known.keys())
    if gone:
        print(f"no events of datasets that were removed: {', '.join(gone)}", file=sys.stderr)
    lines = "".join(f"{line}\n" for line in _events(place, found))
    if out == "-":
        sys.stdout.write(lines)
        return 0
    try:
        Path(out).write_text(lines, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror})", field="--openlineage") from None
    print(f"wrote the events of {len(found)} datasets to {out}", file=sys.stderr)
    return 0


def _events(place: Store, found: Iterable[Held]) -> Iterator[str]:
    try:
        from openlineage.client.serde import Serde

        from flows.lineage.run_events import published_events
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "openlineage":
            raise
        raise InputError("needs OpenLineage's client: pip install 'mmface[lineage]'", field="--openlineage") from None
    for one in found:
        yield from (Serde.to_json(event) for event in published_events(place, one))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", field=str(path)) from None
