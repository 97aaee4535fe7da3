"""``mmface quarantine list|replay``: quarantined rows, their reasons, and another attempt at them."""

from __future__ import annotations

import argparse
from typing import Any

REPLAY = """
Retry the quarantined rows of a dataset after their cause is fixed (the network, the memory, a file that could not be
read). If the stage exceeded its error budget, its dataset is unfinished: the parts with quarantined rows are dropped,
and the next run computes them again. A published dataset never changes: its replay is a new dataset, numbered by
data.replay in the recipe. The next run with that setting copies the rows of the old dataset, computes only the
quarantined ones, and then every later stage. A source file whose bytes have changed needs no replay: it is a new input,
and the next run makes a new dataset. Do not replay a dataset while its stage runs.
"""


def add_command(commands: Any) -> None:
    """Adds the command to the command line."""
    text = "List quarantined rows and retry them."
    actions = commands.add_parser("quarantine", help=text, description=text).add_subparsers(
        required=True, metavar="ACTION"
    )
    action = actions.add_parser("list", help="List quarantined rows by dataset and reason.")
    action.add_argument("--stage", help="list only this stage")
    action.add_argument("--limit", type=int, default=5, metavar="N", help="rows to print for each reason (default: 5)")
    action.set_defaults(run=list_rows)

    action = actions.add_parser("replay", help="Retry the quarantined rows of a dataset.", description=REPLAY)
    action.add_argument("dataset", metavar="STAGE[/FINGERPRINT]|URI", help="any unambiguous beginning is enough")
    action.set_defaults(run=replay_rows)


def list_rows(arguments: argparse.Namespace) -> int:
    """``mmface quarantine list``."""
    from mmface.datasets.inventory import scan
    from mmface.datasets.quarantine import by_reason, set_aside
    from mmface.store import home

    place = home()
    total = 0
    for one in scan(place):
        if arguments.stage not in (None, one.stage):
            continue
        reasons = by_reason(row for rows in set_aside(place, one).values() for row in rows)
        count = sum(len(reason.uris) for reason in reasons)
        total += count
        if count:
            print(f"{one.name}  {one.state}, {count} quarantined rows")
        for reason in reasons:
            print(f"  {len(reason.uris):6}x {reason.error}: {reason.message}")
            for uri in reason.uris[: arguments.limit]:
                print(f"          {uri}")
            if len(reason.uris) > arguments.limit:
                print(f"          and {len(reason.uris) - arguments.limit} more (--limit)")
    print(f"{total} quarantined rows in {place.uri}")
    return 0


def replay_rows(arguments: argparse.Namespace) -> int:
    """``mmface quarantine replay``."""
    from mmface.datasets.inventory import find, scan
    from mmface.datasets.quarantine import replay
    from mmface.store import home

    place = home()
    one = find(scan(place), arguments.dataset)
    made = replay(place, one)
    if not made.number:
        print(f"{one.name} is unfinished: the parts with its {made.rows} quarantined rows will be computed again")
        print("run the same mmface retrain again")
        return 0
    setting = f"{{{one.stage}: {made.number}}}"
    print(f"{one.name} is published and does not change; attempt {made.number} at {made.rows} rows will be {made.key}")
    print(f"put  data: {{replay: {setting}}}  into the recipe, or run mmface retrain … --set 'data.replay={setting}'")
    return 0
