"""``mmface quarantine list|replay``: rows that were set aside, why, and another attempt at them."""

from __future__ import annotations

import argparse
from typing import Any

REPLAY = """
Does the rows of a dataset that were set aside again, once what was in their way is mended (the network, the memory, a
file that could not be read). A dataset whose stage has failed its error budget is unfinished: the parts that hold such
rows are dropped, and the next run does these parts again. A published dataset never changes: its replay is another
dataset, numbered by data.replay in the recipe. The next run with that setting copies the rows that came out, does only
those that were set aside, and makes whatever is made from them. A source file whose bytes have changed needs no replay:
it is a new input, and the next run makes a new dataset by itself. Do not replay a dataset while its stage runs.
"""


def add_command(commands: Any) -> None:
    """Wires the command into the parser of ``mmface``."""
    text = "List rows that were set aside, and do them again."
    actions = commands.add_parser("quarantine", help=text, description=text).add_subparsers(
        required=True, metavar="ACTION"
    )
    action = actions.add_parser("list", help="rows that were set aside, by dataset and reason")
    action.add_argument("--stage", help="this stage alone")
    action.add_argument("--limit", type=int, default=5, metavar="N", help="rows named for each reason (default: 5)")
    action.set_defaults(run=list_rows)

    action = actions.add_parser("replay", help="do a dataset's rows that were set aside again", description=REPLAY)
    action.add_argument("dataset", metavar="STAGE[/FINGERPRINT]|URI", help="may be cut short while it is unambiguous")
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
            print(f"{one.name}  {one.state}, {count} rows set aside")
        for reason in reasons:
            print(f"  {len(reason.uris):6}x {reason.error}: {reason.message}")
            for uri in reason.uris[: arguments.limit]:
                print(f"          {uri}")
            if len(reason.uris) > arguments.limit:
                print(f"          and {len(reason.uris) - arguments.limit} more (--limit)")
    print(f"{total} rows set aside in {place.uri}")
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
        print(f"{one.name} is unfinished: the parts with its {made.rows} rows set aside will be done again")
        print("run the same mmface retrain again")
        return 0
    setting = f"{{{one.stage}: {made.number}}}"
    print(f"{one.name} is published and stays as it is; attempt {made.number} at {made.rows} rows will be {made.key}")
    print(f"put  data: {{replay: {setting}}}  into the recipe, or run mmface retrain … --set 'data.replay={setting}'")
    return 0
