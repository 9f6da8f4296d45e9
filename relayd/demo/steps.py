"""
The commands of the demonstration: where they go, and what their results should be.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from relayd.wire.messages import CommandResult, Secret

#: Seconds that a step may take unless it names a timeout.
COMMAND_TIMEOUT = 30.0


class DemoTarget(Struct, frozen=True, kw_only=True):
    """The host that the commands go to, and the login there."""

    host: str
    port: int
    username: str
    password: Secret | None = None
    private_key: Secret | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.username}@{host}:{self.port}"


class Step(Struct, frozen=True, kw_only=True):
    """
    One command of the demonstration, and what its result should be.

    :ivar expected: the result that is expected, in words.
    :ivar holds: whether a result is the expected one.
    :ivar timeout: in seconds.
    :ivar shown: what the table shows in place of the command.
    """

    command: str
    expected: str
    holds: Callable[[CommandResult], bool]
    timeout: float = COMMAND_TIMEOUT
    wrong_password: bool = False
    shown: str = ""


class StepResult(Struct, frozen=True, kw_only=True):
    """What came back for one step; *failure* says why there is no result."""

    step: Step
    milliseconds: float
    result: CommandResult | None
    failure: str = ""

    @property
    def as_expected(self) -> bool:
        return self.result is not None and self.step.holds(self.result)


def _error_code(result: CommandResult) -> object:
    return (result.details.error or {}).get("code")


STEPS = (
    Step(
        command='echo "hello from $(uname -n)"',
        expected="exit code 0 and a greeting",
        holds=lambda result: result.exit_code == 0 and result.stdout.startswith("hello from "),
    ),
    Step(
        command="echo 'no such thing' >&2; exit 3",
        expected="exit code 3",
        holds=lambda result: result.exit_code == 3 and result.stderr == "no such thing",
    ),
    Step(
        command="echo to stdout; echo to stderr >&2",
        expected="both outputs",
        holds=lambda result: (result.exit_code, result.stdout, result.stderr) == (0, "to stdout", "to stderr"),
    ),
    Step(
        command="echo started; sleep 30",
        expected="a timeout after 1 s, with the output until then",
        holds=lambda result: _error_code(result) == "timeout" and result.stdout == "started",
        timeout=1.0,
        shown="echo started; sleep 30  (timeout 1 s)",
    ),
    Step(
        command="true",
        expected="a refused login",
        holds=lambda result: _error_code(result) == "login-refused",
        wrong_password=True,
        shown="true  (wrong password)",
    ),
)
