"""
Pages of the documents, and the commands on them: read, run in order, and compared with what the page says they print.

A block is ``.. code-block:: console``: lines after ``$`` are commands of a shell, the others what these print, with
``…`` for whatever is there.  A comment before it says what is special: ``.. test: as NAME, until "TEXT"`` (it stays,
until the page's end or ``.. test: stop NAME``), ``typed into NAME`` (lines after ``>``), ``shown by NAME``,
``numbers vary``, ``not run: REASON``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tests.support.process import ChildProcess

ROOT = Path(__file__).resolve().parent.parent.parent
#: Seconds that a command may take, and that a process has to say what the page says.
PATIENCE = 120.0
_BLOCK = re.compile(r"( *)\.\. code-block:: (?:console|text)$")
_PROGRAM = re.compile(r"( *)\.\. code-block:: \w+\n\1   :caption: (\S+)\n\n((?:\1   .*\n|\n)+)")
_MARK = re.compile(r" *\.\. test: (.+)$")


class Step(Struct, frozen=True):
    """
    A command, and what it prints.

    :ivar prompt: ``$`` or ``>``; empty where there is only something printed.
    """

    prompt: str
    command: str
    output: str


class Block(Struct, frozen=True):
    """
    One block of a page, or a mark without one.

    :ivar line: where it begins.
    """

    mark: str
    steps: tuple[Step, ...]
    line: int


class PageFailed(Exception):
    """A command did not do what the page says."""


def pages() -> list[Path]:
    """Every document that is written by hand."""
    return [*sorted(ROOT.glob("*.rst")), *sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.rst"))]


def blocks_of(page: Path) -> list[Block]:
    """The console blocks of a page, and texts that a mark tells something of."""
    found: list[Block] = []
    lines = page.read_text("utf-8").splitlines()
    mark, at = "", 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if marked := _MARK.match(line):
            if marked[1].startswith("stop "):
                found.append(Block(marked[1], (), at))
            else:
                mark = marked[1]
        elif (block := _BLOCK.match(line)) and (mark or line.endswith("console")):
            first = at
            while at < len(lines) and (not lines[at].strip() or lines[at].startswith(block[1] + " ")):
                at += 1
            found.append(Block(mark, tuple(_steps(lines[first:at])), first))
            mark = ""
    return found


def programs_of(page: Path) -> dict[str, str]:
    """The files that a page prints in whole: those with a caption, which is the file's name."""
    found = _PROGRAM.findall(page.read_text("utf-8"))
    return {name: textwrap.dedent(text).rstrip("\n") + "\n" for _, name, text in found}


def _steps(lines: list[str]) -> Iterator[Step]:
    """The lines of a block, which ends with blank ones."""
    texts = [line.strip() for line in "\n".join(lines).strip("\n").split("\n")]
    prompt, command = "", ""
    output: list[str] = []
    while texts:
        text = texts.pop(0)
        if text.startswith(("$ ", "> ")):
            if prompt or output:
                yield Step(prompt, command, "\n".join(output))
            prompt, command, output = text[0], text[2:], []
            while command.endswith("\\"):
                command = command[:-1] + texts.pop(0)
            if command.endswith("<<'END'"):
                end = texts.index("END") + 1
                command, texts = "\n".join((command, *texts[:end])), texts[end:]
        else:
            output.append(text)
    yield Step(prompt, command, "\n".join(output))


def matches(expected: str, actual: str, *, numbers_vary: bool = False) -> bool:
    """
    Whether *actual* is as a page says.

    :param numbers_vary: whether other numbers will do, and with them columns of another width.
    """
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    if numbers_vary:
        pattern = re.sub(r"(\\[ \n])+", r"\\s+", re.sub(r"\d+(\\?\.\d+)?", r"[\\d.]+", pattern))
    return re.fullmatch(pattern, actual, re.DOTALL) is not None


class _Process:
    """Something that stays, and all that it has printed."""

    def __init__(self, script: str, directory: Path, environ: Mapping[str, str]) -> None:
        self.text = ""
        self.seen = 0
        self.child = ChildProcess(self._line)
        words = ["setsid", "bash", "-euc", f"exec 2>&1\n{script}"]
        self.child.start([shutil.which("setsid") or "setsid", *words[1:]], cwd=str(directory), env=environ)

    def _line(self, _stream: int, line: str) -> None:
        self.text += line.strip() + "\n"

    def stop(self, number: signal.Signals) -> Deferred[int]:
        """End it and all that belongs to it."""
        if self.child.exit_code is not None:
            return succeed(self.child.exit_code)
        ended = self.child.when_ended()
        os.killpg(int(self.child.transport.pid), number)
        return ended


class Shell:
    """
    Runs the blocks of a page, in a directory and a home of its own.

    :param replace: what stands for what on the page is an example, such as a host's address.
    :ivar environ: all of its variables, the given ones on top.
    """

    def __init__(self, clock: IReactorTime, replace: Mapping[str, str], environ: Mapping[str, str]) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="relayd-page-"))
        self._clock = clock
        self._replace = dict(replace)
        self._directory = self.home
        self._processes: dict[str, _Process] = {}
        # Of make, too: under another make it says which directory it enters.
        drop = ("RELAYD_", "PYTHON", "PIP_", "MAKE", "MFLAGS")
        keep = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
        mine = {"HOME": str(self.home), "PYTHONUNBUFFERED": "1", "TERM": "dumb", "COLUMNS": "160"}
        self.environ = {**keep, **mine, **environ}

    async def run(self, block: Block) -> None:
        """
        Run one block.

        :raises PageFailed: when something is not as the page says.
        """
        if block.mark.startswith("stop "):
            await self.stop(block.mark.removeprefix("stop "))
        elif staying := re.fullmatch(r'as (\S+), until "(.+)"', block.mark):
            await self._stay(staying[1], staying[2], block)
        elif typed := re.fullmatch(r"typed into (\S+)", block.mark):
            for step in block.steps:
                self._processes[typed[1]].child.write_line(self._real(step.command))
                await self._wait_for(typed[1], step.output, block)
        elif shown := re.fullmatch(r"shown by (\S+)", block.mark):
            for step in block.steps:
                await self._wait_for(shown[1], step.output, block)
        elif block.mark in ("", "numbers vary"):
            for step in block.steps:
                await self._command(step, block)
        elif not block.mark.startswith("not run: "):
            raise PageFailed(f"line {block.line}: nobody knows what this means: {block.mark}")

    async def stop(self, name: str = "all", number: signal.Signals = signal.SIGTERM) -> None:
        """End what stays."""
        for each in list(self._processes) if name == "all" else [name]:
            await self._processes.pop(each).stop(number)

    async def close(self) -> None:
        """End everything, at once: a relay would wait for its commands. Remove the home."""
        await self.stop(number=signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)

    def replace(self, example: str, real: str) -> None:
        """Have *real* stand for *example* from now on."""
        self._replace[example] = real

    def _real(self, text: str) -> str:
        """The longest example wins where several begin."""
        pattern = "|".join(re.escape(example) for example in sorted(self._replace, key=len, reverse=True))
        return re.sub(pattern, lambda found: self._replace[found[0]], text) if pattern else text

    async def _command(self, step: Step, block: Block) -> None:
        where = self.home / ".directory"
        script = f"trap 'pwd > {where}' EXIT\n{self._real(step.command)}"
        process = _Process(script, self._directory, self.environ)
        code = await process.child.when_ended().addTimeout(PATIENCE, self._clock)
        self._directory = Path(where.read_text().strip())
        good = matches(self._real(step.output), process.text.strip(), numbers_vary=block.mark == "numbers vary")
        if not good if step.output else code:
            raise PageFailed(f"line {block.line}: {step.command}\n{step.output}\n--- but ---\n{process.text}")

    async def _stay(self, name: str, until: str, block: Block) -> None:
        *before, last = [self._real(step.command) for step in block.steps]
        self._processes[name] = process = _Process("\n".join((*before, f"exec {last}")), self._directory, self.environ)
        await self._wait(lambda: until in process.text, name, until, block)
        await self._wait_for(name, block.steps[-1].output, block)

    async def _wait_for(self, name: str, expected: str, block: Block) -> None:
        process = self._processes[name]
        for line in filter(None, self._real(expected).splitlines()):
            pattern = re.compile(".*".join(re.escape(part) for part in line.split("…")))

            def found(pattern: re.Pattern[str] = pattern) -> bool:
                match = pattern.search(process.text, process.seen)
                if match is not None:
                    process.seen = match.end()
                return match is not None

            await self._wait(found, name, line, block)

    async def _wait(self, holds: object, name: str, what: str, block: Block) -> None:
        deadline = self._clock.seconds() + PATIENCE / 4
        process = self._processes[name]
        while not holds():  # type: ignore[operator]
            if self._clock.seconds() > deadline or process.child.exit_code is not None:
                raise PageFailed(f"line {block.line}: {name} did not say\n{what}\n--- but ---\n{process.text}")
            await deferLater(self._clock, 0.05)
