"""
The relay's command runner: turns orders into commands on SSH hosts, and what became of them into results.

The only module of this package that knows the rest of relayd; the package's errors are translated here, once.
"""

from __future__ import annotations

import shlex
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.errors import HostFailure, NoCredential, RelayError
from relayd.interfaces import ICommandRunner, IOutputSink
from relayd.messages import CommandResult, Details, ExecuteCommand, describe_error
from relayd.ssh.client import Completed, SSHClient
from relayd.ssh.errors import SSHError
from relayd.ssh.pool_state import Counts
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Credential, Target


@implementer(ICommandRunner)
class SSHCommandRunner:
    """
    Runs commands on SSH hosts.

    :param reactor: provides time, TCP, name resolution and threads.
    """

    def __init__(self, reactor: Any, settings: SSHSettings) -> None:
        self._client = SSHClient(reactor, settings)
        # As the specification's example relay does: ``cd / ; COMMAND``.
        directory = settings.working_directory
        self._prefix = f"cd {shlex.quote(directory)} ; " if directory else ""

    def refuses(self, command: ExecuteCommand) -> RelayError | None:
        """See `ICommandRunner.refuses`."""
        if command.password is None and command.private_key is None:
            return NoCredential(username=command.username, host=command.host)
        return None

    def run(
        self, command: ExecuteCommand, deadline: float, output: IOutputSink | None = None
    ) -> Deferred[CommandResult]:
        """See `ICommandRunner.run`."""
        password, private_key, passphrase = command.password, command.private_key, command.passphrase
        target = Target(
            command.host.lower(),
            command.port,
            command.username,
            Credential(
                None if password is None else password.reveal(),
                None if private_key is None else private_key.reveal(),
                None if passphrase is None else passphrase.reveal(),
            ),
            command.host_key,
        )
        text = self._prefix + command.command
        running: Deferred[Any] = self._client.run(target, text.encode("utf-8"), deadline)
        running.addCallbacks(_result, _translate, callbackArgs=(command,))
        return running

    def counts(self) -> Counts:
        """What the pool holds now."""
        return self._client.counts()

    def close(self) -> Deferred[None]:
        """See `ICommandRunner.close`."""
        return self._client.close()


def _result(completed: Completed, command: ExecuteCommand) -> CommandResult:
    stdout, stderr = completed.stdout, completed.stderr
    error = completed.error
    stderr_text = stderr.text()
    exit_code = completed.exit.exit_code
    if error is not None:
        # What the command wrote until then is worth having; why there is no more of it stands below.
        stderr_text = f"{stderr_text}\n{error}" if stderr_text else str(error)
        exit_code = 1
    details = Details(
        error=None if error is None else describe_error(_host_failure(error)),
        signal=completed.exit.signal,
        truncated=stdout.truncated or stderr.truncated,
        stdout_bytes=stdout.total,
        stderr_bytes=stderr.total,
        timings={phase: round(seconds, 6) for phase, seconds in completed.timings.items()},
    )
    return CommandResult(
        command_id=command.command_id,
        stdout=stdout.text(),
        stderr=stderr_text,
        exit_code=1 if exit_code is None else exit_code,
        details=details,
        extended=command.extended,
    )


def _host_failure(error: SSHError) -> HostFailure:
    return HostFailure(
        message=str(error),
        code=error.code,
        phase=error.phase,
        executed=error.executed,
        retriable=error.retriable,
    )


def _translate(failure: Failure) -> None:
    error = failure.value
    if isinstance(error, SSHError):
        raise _host_failure(error) from None
    failure.raiseException()
