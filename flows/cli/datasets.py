"""``mmface datasets list|show|verify|gc``: lists, describes, checks and removes the datasets of a home."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from flows.cli.tables import age, size, table

if TYPE_CHECKING:
    from mmface.datasets.inventory import Held
    from mmface.store import Store

GC = """
Remove datasets that nothing refers to. A dataset is kept when one of these refers to it, directly or through other
datasets: the lineage of a registered model; a job or flow run that has not ended (for a killed one: until mmface reap);
the newest published dataset of any stage; anything written in the last --keep-days, since a published dataset may wait
for the next stage of its run. --delete also removes the incomplete files of killed writers, if no work runs. Without
--delete nothing is removed.
"""


def add_command(commands: Any) -> None:
    """Adds the command to the command line."""
    text = "List, show, verify and remove datasets."
    actions = commands.add_parser("datasets", help=text, description=text).add_subparsers(
        required=True, metavar="ACTION"
    )

    action = actions.add_parser("list", help="List every dataset of the home and what refers to it.")
    action.add_argument("--stage", help="list only this stage")
    action.set_defaults(run=list_datasets)

    action = actions.add_parser("show", help="Show one dataset with its lineage back to the sources.")
    action.add_argument("dataset", metavar="STAGE[/FINGERPRINT]|URI", help="any unambiguous beginning is enough")
    action.set_defaults(run=show)

    action = actions.add_parser("verify", help="Compare the checksum of every file; exit with 1 if one is damaged.")
    action.add_argument("dataset", nargs="*", metavar="STAGE[/FINGERPRINT]|URI", help="default: all")
    action.set_defaults(run=verify)

    action = actions.add_parser("gc", help="Remove what nothing refers to (dry run without --delete).", description=GC)
    action.add_argument("--delete", action="store_true", help="remove the datasets instead of listing them")
    action.add_argument(
        "--keep-days", type=float, default=7.0, metavar="N", help="keep everything younger than N days (default: 7)"
    )
    action.set_defaults(run=collect)


def list_datasets(arguments: argparse.Namespace) -> int:
    """``mmface datasets list``."""
    from mmface.bundles.lineage import registered_lineages
    from mmface.datasets.inventory import scan
    from mmface.datasets.retention import needs
    from mmface.errors import MMFaceError
    from mmface.store import home

    place = home()
    held = scan(place)
    try:
        reasons, note = needs(held, registered_lineages(), in_work=_in_work(place)), ""
    except MMFaceError as error:
        reasons, note = needs(held, {}, in_work=_in_work(place)), f"; references of models are not shown ({error})"
    shown = [one for one in held if arguments.stage in (None, one.stage)]
    rows = [[*_line(one), reasons.get(one.key, "nothing")] for one in shown]
    print(table(["dataset", "state", "rows", "size", "age", "kept by"], rows, right=(2, 3, 4)))
    print(f"{len(shown)} datasets, {size(sum(one.size for one in shown))} in {place.uri}{note}")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """``mmface datasets show``."""
    from mmface.datasets.dataset import Dataset
    from mmface.datasets.inventory import find, lineage, scan
    from mmface.datasets.profile import profile
    from mmface.store import home

    place = home()
    held = scan(place)
    one = find(held, arguments.dataset)
    print(f"{place.uri}/{one.key}  {one.state}, {size(one.size)}, written {age(time.time() - one.modified)} ago")
    if one.manifest is not None:
        manifest = one.manifest
        for name in ("counts", "config", "weights", "extra"):
            for key, value in getattr(manifest, name).items():
                print(f"  {name + '.' + key:32}{json.dumps(value)}")
        for column, line in profile(Dataset(place.child(one.key), manifest)):
            print(f"  {'rows.' + column:32}{line}")
        print(f"  {'files':32}{len(manifest.files)}")
        print(f"  {'made':32}by mmface {manifest.code_version} in {manifest.seconds:g} s")
    print("made from")
    for depth, key, dataset in lineage(held, one):
        print(f"  {'  ' * depth}{_described(key, dataset)}")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """``mmface datasets verify``: returns 1 when a file is damaged or missing."""
    from mmface.datasets.inventory import damages, find, scan
    from mmface.store import home

    place = home()
    held = scan(place)
    chosen = [find(held, name) for name in arguments.dataset] or [one for one in held if one.state != "unfinished"]
    found = 0
    for one in chosen:
        damaged = list(damages(place, one))
        found += len(damaged)
        for damage in damaged:
            print(f"DAMAGED  {one.key}/{damage.path}: {damage.reason}")
        if not damaged:
            files = (
                f"{len(one.manifest.files)} files, {size(one.size)}" if one.manifest else "unfinished: no checksums yet"
            )
            print(f"{'ok' if one.manifest else '-':9}{one.name}  {files}")
    print(f"{found} damaged files in {len(chosen)} datasets")
    return int(found > 0)


def collect(arguments: argparse.Namespace) -> int:
    """``mmface datasets gc``."""
    from mmface.bundles.lineage import registered_lineages
    from mmface.datasets.inventory import FOLDER, scan
    from mmface.datasets.retention import needs, removable, remove
    from mmface.errors import InputError
    from mmface.store import home
    from mmface.train.checkpoints.run import RUNS

    if not arguments.keep_days >= 0:
        raise InputError(f"{arguments.keep_days:g} is not a number of days", field="--keep-days")
    place = home()
    held = scan(place)
    models, in_work = registered_lineages(), _in_work(place)
    unused = removable(held, needs(held, models, in_work=in_work, keep_days=arguments.keep_days))
    old = {one.key for one in removable(held, needs(held, models, in_work=in_work))}
    for one in unused:
        if arguments.delete:
            remove(place, one)
        print(f"{'removed' if arguments.delete else 'would remove'}  {'  '.join(_line(one))}")
    if arguments.delete and not in_work:
        for folder in (FOLDER, RUNS):
            place.child(folder).sweep()
    print(f"{len(unused)} of {len(held)} datasets, {size(sum(one.size for one in unused))}")
    if len(old) > len(unused):
        print(f"{len(old) - len(unused)} more are kept only for their age (--keep-days {arguments.keep_days:g})")
    if unused and not arguments.delete:
        print("dry run: nothing was removed; add --delete")
    return 0


def _in_work(place: Store) -> dict[str, str]:
    """What running work refers to, by owner: the datasets of its leases and the arguments of its jobs."""
    from flows.cluster.ledger import of_flow_runs
    from mmface.store.leases import taken

    named: dict[str, list[str]] = defaultdict(list)
    runs: dict[str, str] = {}
    for name, owner in taken(place):
        work = f"in work by {owner}"
        named[work] += [_dataset(name), *owner.reads]
        if owner.flow_run:
            runs[owner.flow_run] = work
    for entry in of_flow_runs(place, runs) if runs else ():
        named[runs[entry.flow_run]] += [_dataset(entry.lease), *entry.arguments]
    return {work: " ".join(texts) for work, texts in named.items()}


def _dataset(lease: str) -> str:
    """The key of the dataset that the owner of a lease makes."""
    stage, _, fingerprint = lease.rpartition("-")
    return f"datasets/{stage}/{fingerprint}"


def _line(one: Held) -> list[str]:
    rows = "-" if one.rows is None else f"{one.rows:,}"
    return [one.name, one.state, rows, size(one.size), age(time.time() - one.modified)]


def _described(key: str, dataset: Held | None) -> str:
    name = key.partition("/")[2]
    if dataset is None:
        return f"{name}  (removed)"
    manifest = dataset.manifest
    if manifest is None:
        return f"{name}  ({dataset.state})"
    counts = ", ".join(f"{what} {count}" for what, count in manifest.counts.items() if count)
    # A dataset without inputs was read from outside; its config names the source.
    origin = "" if dataset.references else f"  source {json.dumps(manifest.config | manifest.extra)}"
    return f"{name}  {counts}{origin}"
