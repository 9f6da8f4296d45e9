"""
Runs one target under atheris (libFuzzer) and keeps what breaks an invariant, without stopping at the first of it.

The process that `tests.fuzz.__main__` starts: ``python -m tests.fuzz.engine TARGET SECONDS DIRECTORY``.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Final

from msgspec import Struct
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogBeginner
from zope.interface import implementer

#: Stands where a secret is expected; it must be in no error and in no log.
CANARY: Final = "canary-9d1f"
#: Seconds of processor time that one input may take; code that is instrumented is several times as slow as it was.
PATIENCE: Final = 1.0
#: The memory that the process may take, in MiB.
MEMORY: Final = 2048
#: Seconds between two inputs from which the process counts as having been stopped in between.
STOPPED: Final = 3.0
#: Bytes that `grow` makes of an input, at most: as many as Twisted reads at a time.
LARGEST: Final = 64 * 1024

#: Errors that are never the peer's fault, where relayd takes any error for its peer's.
_OWN_FAULTS: Final = ("AssertionError", "AttributeError", "KeyError", "NameError", "TypeError", "UnboundLocalError")

#: Which module has which targets.
MODULES: Final = {
    "relay-socketio": "uplink",
    "relay-native": "uplink",
    "hub": "hub",
    "websocket": "websocket",
    "ssh-transport": "ssh",
    "ssh-services": "ssh",
    "ssh-trust": "trust",
    "ssh-keys": "keys",
    "site": "site",
    "records": "records",
    "journal": "logs",
}


class Target(Struct, frozen=True):
    """
    One parser.

    :ivar run: gives it one input; raises what it must not raise, or `Broken`.
    :ivar seeds: valid inputs.
    :ivar words: what inputs are made of, for libFuzzer's dictionary.
    :ivar longest: bytes of the longest input.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: Sequence[bytes] = ()
    longest: int = 4096


class Broken(Exception):
    """An invariant does not hold; the argument says which."""


class Hung(BaseException):
    """An input takes longer than `PATIENCE`."""


def check(holds: object, what: str) -> None:
    """
    :raises Broken: unless it *holds*.
    """
    if not holds:
        raise Broken(what)


def check_words(error: BaseException | str, longest: int = 2000) -> None:
    """What a person is told shows no secret, has an end, and moves no cursor."""
    text = str(error)
    check(CANARY not in text and CANARY not in repr(error), f"a secret in the words of {type(error).__name__}")
    check(len(text) <= longest, f"{len(text)} characters in the words of {type(error).__name__}")
    check(text.isprintable(), f"control characters in the words of {type(error).__name__}")


def grow(data: bytes) -> bytes:
    """
    Inputs that end in a byte that UTF-8 never ends in are made large, by the three bytes before it: a part of them is
    repeated.  What takes a time that grows faster than its input shows then.
    """
    if len(data) < 8 or data[-1] < 0xF0:
        return data
    start, size, count = data[-4], data[-3] + 1, 1 << (data[-2] & 15)
    text = data[:-4]
    part = text[start : start + size]
    times = min(count, LARGEST // len(part)) if part else 0
    return text[:start] + part * times + text[start + size :]


class Findings:
    """What broke, each once, by the place where it did."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.places: dict[str, int] = {}

    def add(self, error: BaseException, data: bytes) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/relayd/" in frame.filename and "/tests/" not in frame.filename]
        # Where something hangs differs from time to time
        last = (ours or frames)[0 if isinstance(error, Hung) else -1]
        said = str(error) if isinstance(error, Broken) else ""
        place = f"{type(error).__name__} {said} {Path(last.filename).name}:{last.name}"
        self.places[place] = self.places.get(place, 0) + 1
        if self.places[place] > 1:
            return
        name = hashlib.sha256(data).hexdigest()[:16]
        self._directory.mkdir(exist_ok=True)
        (self._directory / name).write_bytes(data)
        (self._directory / f"{name}.txt").write_text("".join(traceback.format_exception(error)), errors="replace")
        print(f"FOUND {place} ({name})", file=sys.stderr, flush=True)


@implementer(ILogObserver)
class Watch:
    """Reads the log: no failure may be in it, and no secret."""

    def __init__(self) -> None:
        self.trouble: BaseException | None = None

    def __call__(self, event: LogEvent) -> None:
        if "log_failure" in event and self.trouble is None:
            self.trouble = event["log_failure"].value
        elif event.get("kind") in _OWN_FAULTS:
            self.trouble = Broken(f"a {event['kind']} that passes for a peer's fault")
        elif CANARY in eventAsText(event):
            self.trouble = Broken(f"a secret in the log: {event.get('log_format')}")


class Engine:
    """
    :param seconds: to run, without those in which the process was stopped.
    """

    def __init__(self, target: Target, seconds: float, findings: Findings) -> None:
        self._target = target
        self._left = seconds
        self._findings = findings
        self._watch = Watch()
        self._last = time.monotonic()
        self._count = 0
        globalLogBeginner.beginLoggingTo([self._watch], discardBuffer=True, redirectStandardIO=False)
        signal.signal(signal.SIGVTALRM, self._ring)

    def run(self, data: bytes) -> None:
        """One input of libFuzzer's."""
        now = time.monotonic()
        self._left -= min(now - self._last, STOPPED)
        self._last = now
        if self._left <= 0:
            self._end()
        self._count += 1
        begun = time.process_time()
        self._watch.trouble = None
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
            try:
                self._target.run(data)
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            if self._watch.trouble is not None:
                raise self._watch.trouble
            check(time.process_time() - begun <= PATIENCE, "it takes too long")
        except (Exception, Hung) as error:
            self._findings.add(error, data)

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        raise Hung

    def _end(self) -> None:
        print(f"DONE {self._count} executions, {len(self._findings.places)} findings", file=sys.stderr, flush=True)
        atexit._run_exitfuncs()  # libFuzzer knows no other way out than this one, which passes them over
        os._exit(1 if self._findings.places else 0)


def load(name: str) -> Target:
    """
    :raises KeyError: when there is no such target.
    """
    module: Any = import_module(f"tests.fuzz.{MODULES[name]}")
    target: Target = module.TARGETS[name]
    return target


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main(name: str, seconds: str, directory: str) -> None:
    """Fuzz; ends the process."""
    import atheris

    with atheris.instrument_imports(
        include=["relayd", "socketio.packet", "autobahn.websocket", "tomllib", "ipaddress", "fnmatch"]
    ):
        target = load(name)
    place = Path(directory)
    corpus = place / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number:03d}").write_bytes(seed)
    words = place / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    engine = Engine(target, float(seconds), Findings(place / "findings"))
    options = [
        f"-max_len={target.longest}",
        f"-rss_limit_mb={MEMORY}",
        # Not libFuzzer's: its clock goes on while the process is stopped
        "-timeout=100000",
        f"-dict={words}",
        f"-artifact_prefix={place}/",
        "-len_control=20",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], engine.run)
    atheris.Fuzz()


if __name__ == "__main__":
    # By its name, so that targets raise the same `Broken` that is caught here
    import_module("tests.fuzz.engine").main(*sys.argv[1:])
