"""
A real peer in a process of its own that talks in JSON lines on its standard streams.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from tests.support.process import ChildProcess, needed


class ScriptServer:
    """
    A server that says ``{"listening": PORT}`` on its standard output when it is ready; each further line there is one
    JSON value. A line ``{"wire": [DIRECTION, EVENT, DATA]}`` is an event that it has sent to a relay or got from one,
    which `tests.support.schemas` checks; it is not one of the lines.

    :param argv: its command line.
    :param cwd: the directory to run it in.

    :ivar lines: the values that it wrote so far, oldest first.
    :ivar error_lines: what it wrote to standard error: a stack trace, where it failed.
    """

    def __init__(self, argv: Sequence[str], cwd: str | None = None) -> None:
        self.lines: list[Any] = []
        self.error_lines: list[str] = []
        self.port = 0
        self._argv = argv
        self._cwd = cwd
        self._process = self.make_process()
        self._waiting: list[tuple[Callable[[Any], bool], Deferred[Any]]] = []

    def make_process(self) -> ChildProcess:
        """What runs it, not begun yet."""
        return ChildProcess(self._on_line)

    def start(self) -> Deferred[int]:
        """Fires with the port that it listens on, and fails with `PeerFailed` when it cannot start."""
        if self._process.exit_code is not None:
            self._process = self.make_process()
        listening = self._wait(lambda line: isinstance(line, dict) and "listening" in line, 30)
        self._process.start(self._argv, cwd=self._cwd)
        self._process.when_ended().addCallback(self._ended)

        def port_of(line: dict[str, Any]) -> int:
            self.port = int(line["listening"])
            return self.port

        return listening.addCallback(port_of)

    def stop(self) -> Deferred[int]:
        """End it; fires with its exit code."""
        return self._process.terminate()

    def kill(self) -> Deferred[int]:
        """End it at once, as a crash would; fires once it is gone."""
        return self._process.kill()

    def send(self, value: Any) -> None:
        """Give it a JSON value as one line on its standard input."""
        self._process.write_line(json.dumps(value))

    def wait_for(self, predicate: Callable[[Any], bool], timeout: float = 60) -> Deferred[Any]:
        """
        The first value, of those written so far and from now on, that *predicate* accepts.

        :param timeout: in seconds; then it fails with `twisted.internet.defer.TimeoutError`.
        """
        for line in self.lines:
            if predicate(line):
                found: Deferred[Any] = Deferred()
                found.callback(line)
                return found
        return self._wait(predicate, timeout)

    def _wait(self, predicate: Callable[[Any], bool], timeout: float) -> Deferred[Any]:
        from twisted.internet import reactor  # trial's, which is chosen before any test runs

        waiting: Deferred[Any] = Deferred()
        entry = (predicate, waiting)
        self._waiting.append(entry)

        def forget(outcome: Any) -> Any:
            if entry in self._waiting:
                self._waiting.remove(entry)
            return outcome

        return waiting.addTimeout(timeout, reactor).addBoth(forget)

    def _on_line(self, descriptor: int, text: str) -> None:
        if descriptor == 2:
            self.error_lines.append(text)
            return
        try:
            value = json.loads(text)
        except ValueError:
            self.error_lines.append(text)
            return
        if isinstance(value, dict) and "wire" in value:
            from tests.support.schemas import check_said  # here: peers in Python import this module as well

            check_said(*value["wire"])
            return
        self.lines.append(value)
        for predicate, waiting in list(self._waiting):
            if not waiting.called and predicate(value):
                waiting.callback(value)

    def _ended(self, code: int) -> None:
        message = f"{' '.join(self._argv[:2])} ended with {code}: {' / '.join(self.error_lines[-20:])}"
        for _, waiting in list(self._waiting):
            needed(waiting, message)
