"""
``twistd relayd`` again and again, for mistakes that end it at once: each time in a fork of one process that has
imported all of it, which takes a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from tests.support.relays import ROOT


def run_again(runs: Sequence[tuple[Sequence[str], Mapping[str, str]]]) -> list[tuple[int, str]]:
    """
    Run ``twistd -n relayd`` for each of *runs*: options and environment.

    :return: for each its exit code, and all that it wrote.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.again"],
        input=json.dumps([[list(options), dict(environ)] for options, environ in runs]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30 + 10 * len(runs),
    )
    return [(code, said) for code, said in json.loads(done.stdout)]


def _fork(options: list[str], environ: dict[str, str]) -> tuple[int, str]:
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if child == 0:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
            _become(options, environ)
        _, status = os.waitpid(child, 0)
        file.seek(0)
        return os.waitstatus_to_exitcode(status), file.read().decode(errors="replace")


def _become(options: list[str], environ: dict[str, str]) -> NoReturn:
    from twisted.scripts.twistd import run

    code: object = 1
    try:
        os.environ.clear()
        os.environ.update(environ)
        sys.argv = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "relayd", *options]
        run()
        code = 0
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> None:
    """Read the runs, and print what came of them."""
    for name in ("twisted.scripts.twistd", "relayd.service", "relayd.tap"):
        import_module(name)
    json.dump([_fork(options, environ) for options, environ in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
