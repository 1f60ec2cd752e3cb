# SPDX-License-Identifier: MIT
"""`bin/bench TABLE`: measure a table of figures and print it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from typing import Any

from uvmm.scratch import terminable

from . import table as layout
from .figures import NotMeasured
from .stage import say
from .tables import TABLES, measure
from .undo import BenchError

INTERRUPTED = 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    tables = parser.add_subparsers(dest="table", required=True, metavar="TABLE")
    for name, table in TABLES.items():
        of_table = tables.add_parser(name, help=table.about)
        of_table.add_argument("--quick", action="store_true", help="sooner, more spread")
        of_table.add_argument("--json", action="store_true", help="for a program to read")
        of_table.add_argument(
            "--only", action="append", default=[], choices=list(table.rows), metavar="ROW",
            help=f"measure this row only; may be repeated: {', '.join(table.rows)}",
        )
    return parser.parse_args()


def _machine() -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def _bench() -> int:
    arguments = _arguments()
    machine = _machine()
    found = measure(TABLES[arguments.table], quick=arguments.quick, only=arguments.only)
    if arguments.json:
        print(json.dumps({"machine": machine, "rows": layout.as_json(found)}, indent=2))
    else:
        print(
            f"Linux {machine['kernel']}, {machine['cpus']} CPUs, load {machine['load']} before;"
            " swap files on a tmpfs"
        )
        print(layout.as_text(found))
    return 1 if any(isinstance(row, NotMeasured) for row in found) else 0


def main() -> int:
    """Measure and print; 0 also if a target is missed, 1 if a row has no figure."""
    try:
        with terminable():
            return _bench()
    except BenchError as error:
        say(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        say("bench: interrupted; everything was cleaned up")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
