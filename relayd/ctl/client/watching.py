"""
Follows a run: its output as it comes, a line of progress where a person looks, and how it ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
from base64 import b64decode
from typing import Any, Final

from relayd.ctl.client.errors import Refused, Unreachable
from relayd.ctl.client.events import events_of
from relayd.ctl.client.http import Hub, segment
from relayd.ctl.client.lines import HostLines
from relayd.ctl.client.outcome import ENDS, HUB_AWAY, LEFT_RUNNING, counted, exit_status, tell, why
from relayd.ctl.terminal import cut, is_terminal, size_of
from relayd.language.texts import printable, span

#: Hosts that the summary names.
_MOST_NAMED: Final = 40
#: Seconds between two lines of progress.
_INTERVAL: Final = 0.2
_ASK: Final = "\nInterrupted. (c)ancel the run, (l)eave it running, or (w)atch on? "


class Watcher:
    """
    Follows one run until it has ended.

    :param as_json: one JSON object a line instead of text.
    :param raw: see `HostLines`.
    """

    def __init__(self, hub: Hub, run: str, *, as_json: bool = False, raw: bool = False) -> None:
        self._hub = hub
        self._run = run
        self._json = as_json
        self._lines = HostLines(self._write, raw=raw)
        self._invocations: dict[str, dict[str, Any]] = {}
        #: The last piece of output of each invocation: after a lost connection some come once more.
        self._last: dict[str, int] = {}
        self._size = 0
        self._began = time.monotonic()
        self._shows = not as_json and is_terminal(sys.stderr, os.environ)
        self._shown = False
        self._drawn = 0.0
        self._state = ""

    def watch(self) -> int:
        """
        Follow it to its end.

        :return: the exit status.
        """
        while True:
            try:
                for name, data in events_of(self._hub, self._run, self._lost):
                    self._event(name, data)
                return self._finish()
            except KeyboardInterrupt:
                if (status := self._interrupted()) is not None:
                    return status
            except (Unreachable, Refused) as error:
                self._clear()
                print(f"relayctl: {error}", file=sys.stderr)
                print(self._how_to_go_on(), file=sys.stderr)
                return HUB_AWAY

    def _event(self, name: str, data: dict[str, Any]) -> None:
        if name == "output" and self._is_old(data):
            return
        if self._json:
            print(json.dumps({"event": name, **data}, ensure_ascii=False), flush=True)
        if name == "invocation":
            self._invocation(data)
        elif name == "output" and not self._json:
            invocation = str(data.get("invocation"))
            self._lines.add(invocation, self._host(data), str(data.get("stream")), _bytes_of(data))
        elif name == "run":
            self._state = str(data.get("state", ""))
            self._size = int(data.get("size") or sum((data.get("counts") or {}).values()) or self._size)
        self._progress()

    def _is_old(self, data: dict[str, Any]) -> bool:
        invocation, sequence = str(data.get("invocation")), int(data.get("sequence", 0))
        if sequence <= self._last.get(invocation, -1):
            return True
        self._last[invocation] = sequence
        return False

    def _invocation(self, data: dict[str, Any]) -> None:
        invocation = str(data.get("id"))
        self._invocations.setdefault(invocation, {}).update(data)
        if data.get("state") in ENDS and not self._json:
            self._lines.end(invocation, self._host(data))

    def _host(self, data: dict[str, Any]) -> str:
        known = self._invocations.get(str(data.get("invocation")), {})
        return str(data.get("host") or known.get("host") or "?")

    # The end

    def _finish(self) -> int:
        for invocation, data in self._invocations.items():
            self._lines.end(invocation, self._host(data))
        self._clear()
        # What was heard may be incomplete, such as after a lost connection: the store has the truth.
        invocations = list(self._hub.items(f"/runs/{segment(self._run)}/invocations"))
        counts = counted(invocations)
        if self._json:
            summary = {"event": "summary", "run": self._run, "counts": dict(counts), "exitStatus": exit_status(counts)}
            print(json.dumps(summary), flush=True)
            return exit_status(counts)
        bad = sorted((each for each in invocations if each.get("state") != "succeeded"), key=_rank)
        for each in bad[:_MOST_NAMED]:
            reason = printable(why(each), 300)
            host, state = printable(str(each.get("host")), 100), printable(str(each.get("state")), 40)
            print(f"{host}: {state}" + (f": {reason}" if reason else ""), file=sys.stderr)
        if len(bad) > _MOST_NAMED:
            print(f"… and {len(bad) - _MOST_NAMED} more: relayctl show {self._run}", file=sys.stderr)
        took = span(time.monotonic() - self._began)
        print(f"run {self._run}: {tell(counts)}, in {took}", file=sys.stderr)
        return exit_status(counts)

    def _how_to_go_on(self) -> str:
        return f"the run goes on: relayctl show --follow {self._run}, or relayctl cancel {self._run}"

    def _interrupted(self) -> int | None:
        """Ask what to do; ``None``: watch on."""
        self._clear()
        self._hub.close()
        answer = "l"
        if sys.stdin.isatty() and sys.stderr.isatty():
            try:
                print(_ASK, end="", file=sys.stderr, flush=True)
                answer = sys.stdin.readline().strip().lower()[:1] or "w"
            except KeyboardInterrupt:
                answer = "l"
        if answer == "w":
            return None
        if answer == "c":
            self._hub.call("POST", f"/runs/{segment(self._run)}/cancel", {}, again=True)
            print("cancelling: what runs already ends first", file=sys.stderr)
            return None
        print(f"\n{self._how_to_go_on()}", file=sys.stderr)
        return LEFT_RUNNING

    # What is written

    def _write(self, stream: str, line: str) -> None:
        self._clear()
        print(line, file=sys.stderr if stream == "stderr" else sys.stdout, flush=True)

    def _lost(self, delay: float) -> None:
        self._clear()
        print(f"relayctl: the connection to the hub is lost; again in {span(delay)}", file=sys.stderr)

    def _progress(self) -> None:
        now = time.monotonic()
        if not self._shows or now - self._drawn < _INTERVAL:
            return
        self._drawn = now
        counts = counted(self._invocations.values())
        ended = sum(counts[state] for state in ENDS)
        line = f"{ended} of {max(self._size, len(self._invocations))} hosts: {tell(counts)}"
        self._clear()
        print(cut(line, size_of(sys.stderr).columns - 1), end="", file=sys.stderr, flush=True)
        self._shown = True

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


def _bytes_of(output: dict[str, Any]) -> bytes:
    """What a host wrote; where a piece is no text, such as half a character, it comes as base64 too."""
    if "base64" in output:
        return b64decode(str(output["base64"]))
    return str(output.get("text", "")).encode()


def _rank(invocation: dict[str, Any]) -> tuple[int, str]:
    """Where an invocation belongs in the summary: what people must know first comes first."""
    state = invocation.get("state")
    return ENDS.index(state) if state in ENDS else len(ENDS), str(invocation.get("host"))
