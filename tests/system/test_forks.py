"""
Relays of tests that are forks (`tests.support.forks`): they are as what reactor.spawnProcess starts.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from tests.support.forks import can_spawn, usual_environ
from tests.support.process import ChildProcess

#: All that a program sees of how it was started.
SEEN = """
import atexit, gc, json, locale, os, resource, signal, sys, threading
umask = os.umask(0)
os.umask(umask)
streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
print(json.dumps({
    "name": [__name__, __file__, sys.modules["__main__"].__file__, open("/proc/self/comm").read()],
    "argv": [sys.argv, sys.orig_argv[1:], sys.path],
    "environ": [dict(os.environ), os.getcwd(), umask, locale.getlocale(), sys.flags],
    "ids": [os.getppid(), os.getpgid(0), os.getsid(0), os.geteuid(), os.getgroups(), os.nice(0)],
    "limits": {each: resource.getrlimit(getattr(resource, each)) for each in dir(resource) if each[:6] == "RLIMIT"},
    "signals": [str(signal.getsignal(each)) for each in sorted(signal.valid_signals())],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "open": sorted(os.listdir("/proc/self/fd"))[:3],
    "most": len(os.listdir("/proc/self/fd")),
    "streams": {
        name: [each.encoding, each.errors, each.line_buffering, each.fileno(), each.isatty()]
        for name, each in streams.items()
    },
    "threads": [len(threading.enumerate()), threading.current_thread().name],
    "collections": [gc.isenabled(), gc.get_threshold()],
    "reactor": "twisted.internet.reactor" in sys.modules,
}, default=str))
atexit.register(print, "at exit")
"""
PATIENCE = 60


class ForksTests(TestCase):
    """Each test runs a script as a fork, and as a process that was started as any other."""

    timeout = PATIENCE

    def setUp(self) -> None:
        self.folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="relayd-forks-")))
        self.script = self.folder / "script"
        self.said: dict[bool, list[str]] = {True: [], False: []}

    def start(self, *, fork: bool) -> ChildProcess:
        process = ChildProcess(lambda _, line: self.said[fork].append(line))
        argv, environ = [str(self.script), "first", ""], usual_environ() | {"ONE_MORE": "é\udcff"}
        self.assertTrue(can_spawn(argv, environ))
        process.start(argv, env=environ, cwd=str(self.folder), may_fork=fork)
        return process

    async def run_both(self, code: str) -> list[int]:
        """The exit codes of the fork, and of the other."""
        self.script.write_text(f"#!{sys.executable}\n{code}")
        self.script.chmod(0o755)
        running = [self.start(fork=fork) for fork in (True, False)]
        ended: list[int] = await gatherResults([process.when_ended() for process in running])
        return ended

    async def test_all_that_it_sees(self) -> None:
        self.addCleanup(os.umask, os.umask(0o027))
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - 1, before[1]))
        self.assertEqual(await self.run_both(SEEN), [0, 0])
        fork, other = ([json.loads(lines[0]), *lines[1:]] for lines in (self.said[True], self.said[False]))
        self.assertEqual(fork[0].keys(), other[0].keys())
        for name in fork[0]:
            self.assertEqual(fork[0][name], other[0][name], name)
        self.assertEqual(fork[1:], ["at exit"])
        self.assertEqual(other[1:], ["at exit"])
        self.assertEqual(fork[0]["ids"][0], os.getpid())
        self.assertIs(fork[0]["reactor"], False)

    async def test_how_it_ends(self) -> None:
        ends = {
            "import sys; sys.exit(78)": 78,
            "import sys; sys.exit('one line')": 1,
            "raise ValueError('one line')": 1,
            "import os, signal; os.kill(os.getpid(), signal.SIGTERM)": -signal.SIGTERM,
            "import os, signal; os.kill(os.getpid(), signal.SIGINT)": -signal.SIGINT,
            "import os; print('one line', flush=True); os._exit(3)": 3,
        }
        for code, expected in ends.items():
            self.said = {True: [], False: []}
            self.assertEqual(await self.run_both(code), [expected] * 2, code)
            self.assertEqual(self.said[True][-1:], self.said[False][-1:], code)

    async def test_signals_and_streams_from_here(self) -> None:
        code = "import signal; print('ready', flush=True); print(input(), flush=True); signal.pause()"
        self.script.write_text(f"#!{sys.executable}\n{code}")
        self.script.chmod(0o755)
        process = self.start(fork=True)
        process.write_line("a line")
        while self.said[True] != ["ready", "a line"]:
            await self.soon()
        pid: Any = process.transport.pid
        self.assertEqual(await process.terminate(), -signal.SIGTERM)
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    async def test_no_two_draw_the_same_numbers(self) -> None:
        self.script.write_text(f"#!{sys.executable}\nimport random, ssl; print(random.random(), ssl.RAND_bytes(8))")
        self.script.chmod(0o755)
        await gatherResults([self.start(fork=True).when_ended() for _ in range(3)])
        self.assertEqual(len({word for line in self.said[True] for word in line.split(" ", 1)}), 6)

    def soon(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        reactor.callLater(0.02, waiting.callback, None)
        return waiting

    def test_only_what_a_fork_can_be(self) -> None:
        usual, twistd = usual_environ(), str(Path(sys.executable).with_name("twistd"))
        self.assertTrue(can_spawn([twistd], {**usual, "RELAYD_PROXY_ID": "x", "PATH": "/bin"}))
        for name in ("PYTHONUNBUFFERED", "LD_PRELOAD", "TZ", "LC_ALL", "COVERAGE_PROCESS_START", "WATCHED_EVENTS"):
            self.assertFalse(can_spawn([twistd], usual | {name: "other"}), name)
        for words in ([sys.executable, twistd], ["sh", "-c", twistd], ["/usr/bin/node"], ["/no/such/file"]):
            self.assertFalse(can_spawn(words, usual), words)
