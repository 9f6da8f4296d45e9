"""
``python -m relayd.hub`` whose events are checked (`tests.support.schemas`): it writes what is wrong to standard error.
"""

import runpy
import sys

from tests.support import schemas


def complain(fault: str) -> None:
    print(f"{schemas.Misfit.__name__}: {fault}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    schemas.report = complain
    schemas.watch()
    runpy.run_module("relayd.hub", run_name="__main__", alter_sys=True)
