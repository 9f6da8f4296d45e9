"""
The console script ``relayd``: the service in the foreground, as ``twistd --nodaemon --pidfile= relayd`` runs it.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run relayd until a signal ends it. Its options are those of ``twistd relayd``."""
    arguments = sys.argv[1:]
    if "--help" in arguments or "--version" in arguments:
        from relayd.tap import Options

        asked = Options()
        asked.synopsis = f"Usage: relayd {asked.synopsis}"
        asked.parseOptions(arguments)  # which ends the process; twistd would tell of its own options
    from twisted.scripts.twistd import run

    sys.argv = ["relayd", "--nodaemon", "--pidfile=", "relayd", *arguments]
    run()


if __name__ == "__main__":
    main()
