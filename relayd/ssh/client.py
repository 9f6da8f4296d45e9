"""
The SSH client: what programs that use this package call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec import structs
from twisted.internet.defer import Deferred

from relayd.network.delayed_calls import DelayedCalls
from relayd.network.threads import in_pool
from relayd.ssh.become.texts import Become
from relayd.ssh.channels.session import OutputReader, Permission
from relayd.ssh.channels.surroundings import Progress
from relayd.ssh.channels.terminal import Terminal
from relayd.ssh.device.devices import Devices
from relayd.ssh.device.run import DeviceRequest
from relayd.ssh.execution import Execution, RunRequest
from relayd.ssh.files.orders import FileOrders
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.host_keys.threaded_check import FileChecks
from relayd.ssh.keys.private import KeyStore
from relayd.ssh.outcome import Completed
from relayd.ssh.pool.checked_names import AddressCheck, allow_all
from relayd.ssh.pool.dialer import Dialer
from relayd.ssh.pool.pool import Pool
from relayd.ssh.pool.pool_report import Counts, HostCounts
from relayd.ssh.settings import LiveSettings, SSHSettings
from relayd.ssh.shells.prepared import Prepared, WindowsShell
from relayd.ssh.shells.windows import WindowsShells
from relayd.ssh.target import Target
from relayd.ssh.with_files import Ways, WithFiles
from relayd.ssh.worker import Worker


class SSHClient:
    """
    Runs commands over pooled connections.

    :param reactor: provides time, TCP, name resolution and threads.
    :param allows: to which addresses it may connect; by default to all.
    """

    def __init__(self, reactor: Any, settings: SSHSettings, allows: AddressCheck = allow_all) -> None:
        self._clock = DelayedCalls(reactor)
        self._settings: LiveSettings = settings
        self._known_hosts = KnownHosts(settings.known_hosts, settings.host_keys)
        self._files = Worker(reactor, "known hosts")
        self._derivations = Worker(reactor, "passphrases")
        self._signatures = Worker(reactor, "signatures")
        self._keys = KeyStore(reactor, partial(in_pool, reactor), self._derivations.run, self._signatures.run)
        checks = FileChecks(reactor, self._known_hosts, self._files.run)
        self._dialer = Dialer(reactor, self._clock, settings, checks, self._keys, allows)
        self._pool = Pool(reactor, self._clock, self._dialer, settings)
        self._shells = WindowsShells(self._pool)
        self._ways = Ways(self._clock)
        self._devices = Devices(self._clock, self._pool, settings.idle_timeout)

    def run(
        self,
        target: Target,
        command: bytes,
        deadline: float,
        *,
        timeout: float | None = None,
        grace: float | None = None,
        stdin: bytes = b"",
        env: Sequence[tuple[str, bytes]] = (),
        progress: Progress | None = None,
        reader: OutputReader | None = None,
        shell: bool = True,
        permission: Permission | None = None,
        terminal: Terminal | None = None,
        become: Become | None = None,
        windows: Callable[[WindowsShell], Prepared] | None = None,
        needle: str = "",
        files: FileOrders | None = None,
    ) -> Deferred[Completed]:
        """
        Run *command* once.

        :param deadline: in seconds of the reactor's clock.
        :param timeout: the seconds that messages name when it is over; by default those from now.
        :param grace: seconds after the deadline by which the result is given, whatever is known of the command's end;
            by default `relayd.ssh.execution.RESULT_AFTER`.
        :param stdin: what it gets on its standard input, before EOF.
        :param env: environment variables, of which the host takes those that its configuration allows (``AcceptEnv``).
        :param progress: what came with *command* from `relayd.ssh.channels.surroundings.surround`.
        :param reader: gets the output as it arrives, in addition to the result; see `OutputReader`.
        :param shell: whether the host is supposed to have a POSIX shell, by which a command is ended early.
        :param permission: asked for once, before the host is told to run the command. Nothing is run before it fires,
            or when it fails.
        :param terminal: the pseudo-terminal that it has; ``None``: none. Then stdout has all of its output, and *stdin*
            is what a keyboard would send.
        :param become: as whom it runs; ``None``: as the user who logs in. Then *command* is for a POSIX shell.
        :param windows: makes what is sent instead, where the server turns out to be OpenSSH for Windows; it is called
            with the shell there.
        :param needle: for a host of Windows: what only the arguments of the command's processes contain. By it they are
            found when the command is ended early.
        :param files: what is written before it and read after it, as the same user; of what is read no more is kept
            than of an output.
        :return: fails with an `SSHError`, or with what *permission* failed with, when the command was certainly not
            run. Cancelling it ends the command: then it fires with how the command ended.
        """
        request = RunRequest(
            target=target, command=command, deadline=deadline, timeout=timeout, grace=grace, stdin=stdin, env=env,
            progress=progress, reader=reader, shell=shell, permission=permission, terminal=terminal, become=become,
            windows=windows, needle=needle,
        )  # fmt: skip
        if files is None:
            return self._execute(request)
        files = structs.replace(files, most=min(files.most, self._settings.max_output))
        return WithFiles(self._clock, self._pool, self._ways, request, files, self._execute).done

    def _execute(self, request: RunRequest) -> Deferred[Completed]:
        return Execution(self._clock, self._pool, request, self._settings, self._shells).done

    def run_on_device(self, request: DeviceRequest) -> Deferred[Completed]:
        """
        Have a network device carry out lines, once, on a command line that later commands use, too.

        :return: as that of `run`. Cancelling it closes the command line; the device may go on.
        """
        return self._devices.run(request, self._settings.max_output)

    def configure(self, settings: LiveSettings, allows: AddressCheck) -> None:
        """Change the settings for the commands and connections that come from now on."""
        self._settings = settings
        self._dialer.configure(settings, allows)
        self._pool.configure(settings)
        self._devices.idle_timeout = settings.idle_timeout

    def retire_all(self) -> None:
        """Give no more commands to the connections that are open, or being opened."""
        self._pool.retire_all()

    def counts(self) -> Counts:
        """What the pool holds now."""
        return self._pool.report.counts()

    def hosts(self) -> list[HostCounts]:
        """What the pool has of each host."""
        return self._pool.report.hosts()

    def close(self) -> Deferred[None]:
        """Close all connections; the outcome of commands that run on them is unknown."""
        self._devices.close()
        closed = self._pool.close()
        self._files.close()
        self._derivations.close()
        self._signatures.close()
        self._keys.close()
        return closed
