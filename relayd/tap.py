"""
The entry point of ``twistd relayd``, ``twist relayd`` and relayd.tac: from command line options to a service.
No other part of a relay uses the global reactor.
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python import usage

from relayd import __version__
from relayd.config.exposure import exposures
from relayd.config.option import Option
from relayd.config.options import OPTIONS, Config
from relayd.config.paths import CREDENTIALS, CREDENTIALS_ROOT, Elsewhere
from relayd.config.reading import Reading, read
from relayd.config.reload import ReloadOnSignal
from relayd.config.values import near
from relayd.errors import MISTAKES, ConfigError
from relayd.language.texts import span
from relayd.network.descriptors import raise_limit
from relayd.process.garbage import GarbageCollection, no_collections
from relayd.process.hardening import forbid_dumps, use_steady_clock
from relayd.process.journald import is_journal, with_priority
from relayd.process.logs import configure as configure_logs
from relayd.process.unit_files import loaded_credentials

if TYPE_CHECKING:  # otherwise imported by `makeService`
    from relayd.process.systemd import Notifier

_FLAGS = {option.flag_name for option in OPTIONS if option.is_flag} | {"--help", "--version"}
_PARAMETERS = {option.flag_name for option in OPTIONS if not option.is_flag}
#: Options of twistd that people write after the name of the service.
_OF_TWISTD = {"--nodaemon", "--pidfile", "--logfile", "--rundir", "--uid", "--gid", "--umask", "--syslog", "--chroot"}
_OF_TWISTD |= {"-n", "-l", "-d", "-u", "-g"}
ABOUT = (
    "Connects to the main server, takes commands from it, runs them on SSH hosts and sends the results back. "
    "Every option can also be set in the environment (RELAYD_MAX_COMMANDS=64) and in the TOML file of --config "
    "(max-commands = 64). The command line overrides the environment, and the environment overrides the file. "
    "Write times like 5s, 2m or 1h, and sizes like 512K or 8M."
)

T = TypeVar("T")

_log = Logger("relayd")


def _completer(option: Option) -> usage.Completer:
    """What zsh offers as the option's value, by Twisted's own completion."""
    if option.choices:
        return usage.CompleteList(list(option.choices))
    if option.metavar == "PATH":
        return usage.CompleteDirs() if option.name.endswith("-dir") else usage.CompleteFiles()
    return usage.Completer(option.help.replace("[", "(").replace("]", ")").replace(":", ","))


class Options(usage.Options):
    """
    The command line of relayd, and the `Config` made from it, the environment and the TOML file.

    Mistakes end the process with one line each on standard error, and with exit status `MISTAKES`; twistd would print
    all of ``--help`` before them.
    """

    synopsis = "--server URL --proxy-id NAME --api-key-file PATH [options]"
    longdesc = ABOUT
    optFlags = tuple([option.name, None, option.help] for option in OPTIONS if option.is_flag)
    compData = usage.Completions(
        optActions={option.name: _completer(option) for option in OPTIONS if not option.is_flag},
        multiUse=[option.name for option in OPTIONS if option.several],
    )
    optParameters = tuple(
        [option.name, None, None, option.help] for option in OPTIONS if not (option.is_flag or option.several)
    )

    config: Config
    #: What the settings expose to other users of the machine, for the log.
    exposed: Sequence[str] = ()

    def __init__(self) -> None:
        super().__init__()
        self.update({option.name: None for option in OPTIONS if option.several})

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read *options*, by default the process's own arguments.

        :raises SystemExit: with `MISTAKES`, for any mistake.
        """
        arguments = list(sys.argv[1:] if options is None else options)
        try:
            _check_names(arguments)
            super().parseOptions(arguments)
        except (ConfigError, usage.UsageError) as error:  # Twisted's texts name options and never show a value
            _refuse(str(error))
        self._directory = os.getcwd()
        reading = self.read(_sources_of_credentials(os.environ))
        if reading.config is None or reading.mistakes:
            _refuse(*map(str, reading.mistakes))
        self.config = reading.config
        self.exposed = exposures(reading, os.environ)

    def read(self, elsewhere: Elsewhere = Elsewhere()) -> Reading:  # noqa: B008  # frozen
        """
        Read the settings now. Paths on the command line stay relative to the directory it was given in: twistd changes
        its working directory.

        :param elsewhere: more that messages can say.
        """
        given = {option.name: bool(self[option.name]) if option.is_flag else self[option.name] for option in OPTIONS}
        return read(given, os.environ, directory=self._directory, elsewhere=elsewhere)

    def parseArgs(self, *rest: str) -> None:
        """
        Refuse arguments that are not options.

        :raises twisted.python.usage.UsageError: when there are any.
        """
        if rest:
            raise usage.UsageError("expected options only; see --help")

    def opt_version(self) -> None:
        """Show relayd's version and exit."""
        print(f"relayd {__version__}")
        raise SystemExit(0)

    def getUsage(self, width: int | None = None) -> str:
        columns = min(max(width or int(os.environ.get("COLUMNS", "100")), 60), 120)
        lines = ["", *textwrap.wrap(ABOUT, columns)]
        for section in dict.fromkeys(option.section for option in OPTIONS):
            lines += ["", f"{section}:"]
            for option in OPTIONS:
                if option.section == section:
                    lines += _describe(option, columns)
        lines += ["", "Other:", *_row("  --help", "show this and exit", columns)]
        lines += [*_row("  --version", "show relayd's version and exit", columns), ""]
        return "\n".join(lines)


def _gather(name: str) -> Callable[[Options, str], None]:
    """What Twisted calls for each text of an option that may be given several times: it would keep the last one."""

    def gather(options: Options, text: str) -> None:
        options[name] = [*(options[name] or ()), text]

    return gather


for _option in OPTIONS:
    if _option.several:
        setattr(Options, f"opt_{_option.attribute}", _gather(_option.name))


def makeService(options: Options) -> IService:
    """The relay that *options* describe, with what its process needs."""
    # Here, since half of a start goes into these imports, and --version and a mistyped option need none of them.
    with no_collections():
        from twisted.internet import reactor

        from relayd.network.loop_turns import turns_of
        from relayd.process.systemd import make_notifier
        from relayd.service import make_relay

    turns = turns_of(reactor)
    configure_logs(
        options.config.log_level, options.config.log_format, at_end_of_turn=None if turns is None else turns.try_at_end
    )
    for what in options.exposed:
        _log.warn("{exposed}", exposed=what[0].upper() + what[1:])
    use_steady_clock(reactor)
    raise_limit()
    relay = make_relay(reactor, options.config)
    service = ProcessService(lambda: make_notifier(os.environ, reactor, relay.standing, lambda: relay.drain_timeout))
    relay.setServiceParent(service)
    GarbageCollection(reactor, relay.active).setServiceParent(service)
    OrderlyExit(reactor, lambda: relay.drain_timeout).setServiceParent(service)
    ReloadOnSignal(reactor, options.read, relay, service.reloading).setServiceParent(service)
    return service


class ProcessService(MultiService):
    """
    The service that twistd starts. A mistake in the settings ends the process with one line, as a mistyped option does.

    :param notifier: makes the notifier of the service manager; ``None`` if there is no service manager.
    """

    def __init__(self, notifier: Callable[[], Notifier | None]) -> None:
        super().__init__()
        self._make_notifier = notifier
        self._notifier: Notifier | None = None

    def startService(self) -> None:
        """Start the relay. By now twistd is a daemon and has changed its user."""
        forbid_dumps()
        try:
            super().startService()
        except ConfigError as error:
            # Not MISTAKES: another process may let go of the directory, and a disk may have room again.
            raise SystemExit(f"relayd: {error}") from None
        self._notifier = self._make_notifier()
        if self._notifier is not None:
            self._notifier.startService()

    def stopService(self) -> Deferred[Any]:
        """Stop the relay, and keep the service manager informed until it has stopped."""
        stopped: Deferred[Any] = maybeDeferred(super().stopService)
        if self._notifier is not None:
            self._notifier.stopping()
            stopped.addBoth(self._stopped, self._notifier)
        return stopped

    def reloading(self) -> AbstractContextManager[None]:
        """A context for reloading settings, which tells the service manager about it."""
        return nullcontext() if self._notifier is None else self._notifier.reloading()

    def _stopped(self, result: T, notifier: Notifier) -> T:
        notifier.stopService()
        return result


class OrderlyExit(Service):
    """
    Stops the reactor on SIGTERM and SIGINT, so that commands drain and the process then exits with 0.

    With the reactor's own handlers, twistd would kill itself with the same signal after an orderly stop. A second
    signal ends the process at once, drained or not.
    """

    _signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, reactor: Any, drain_timeout: Callable[[], float]) -> None:
        self._reactor = reactor
        self._drain_timeout = drain_timeout
        self._replaced: dict[signal.Signals, Any] = {}

    def startService(self) -> None:
        """Replace the handlers once the reactor, which sets its own when it starts, runs."""
        super().startService()
        self._reactor.callWhenRunning(self._install)

    def stopService(self) -> None:
        """Restore the handlers."""
        for number, handler in self._replaced.items():
            if signal.getsignal(number) == self._stop:
                signal.signal(number, handler)
        self._replaced.clear()
        super().stopService()

    def _install(self) -> None:
        if not self.running:
            return
        for number, own in zip(self._signals, (self._reactor.sigTerm, self._reactor.sigInt), strict=True):
            if signal.getsignal(number) == own:  # a handler that replaced the reactor's stays
                self._replaced[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for each in self._replaced:
            signal.signal(each, signal.SIG_DFL)
        self._reactor.callFromThread(self._stop_reactor, signal.Signals(number).name)

    def _stop_reactor(self, name: str) -> None:
        _log.info(
            "{signal}: running commands have {span} to finish; a second signal ends relayd at once",
            signal=name,
            span=span(self._drain_timeout()),
        )
        self._reactor.stop()


def _check_names(arguments: Sequence[str]) -> None:
    """
    Refuse abbreviated option names.

    getopt accepts any unambiguous beginning: ``--api-key SECRET`` would be read as ``--api-key-file``.

    :raises ConfigError: for the first unknown name.
    """
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name in ("-", "--") or not name.startswith("-"):
            return  # getopt stops here as well
        if name not in _FLAGS | _PARAMETERS:
            meant = near(name, _FLAGS | _PARAMETERS)
            hint = f"did you mean {meant}?" if meant else "see --help"
            reason = f"no such option; {hint}"
            # A word with one hyphen that is similar to no name may be a value, so it is not shown.
            shown = name if name.startswith("--") or meant else name[:2]
            if shown in _OF_TWISTD:
                where = "the command relayd has none of those" if _alone() else "put it before the word relayd"
                reason = f"is an option of twistd; {where}"
            raise ConfigError(option=shown, reason=reason)
        if name in _PARAMETERS and not equals:
            next(rest, None)


def _sources_of_credentials(environ: Mapping[str, str]) -> Elsewhere:
    """What messages about systemd's credentials can say more: the files that they are made from."""
    folder = os.path.normpath(environ.get(CREDENTIALS, ""))
    root, unit = os.path.split(folder)
    loaded = loaded_credentials(unit) if root == CREDENTIALS_ROOT else {}
    return Elsewhere(sources={f"{folder}/{name}": source for name, source in loaded.items()}, in_unit=True)


def _alone() -> bool:
    """Whether this is the command ``relayd``, rather than twistd (`relayd.__main__`)."""
    return os.path.basename(sys.argv[0]) == "relayd"


def _describe(option: Option, columns: int) -> list[str]:
    left = f"  {option.flag_name} {option.metavar}".rstrip()
    text = f"{option.help} [{option.shown_default}]" if option.shown_default else option.help
    return _row(left, text, columns)


def _row(left: str, text: str, columns: int) -> list[str]:
    first, *more = textwrap.wrap(text, columns - 32)
    lines = [f"{left:<31} {first}"] if len(left) < 31 else [left, f"{'':<31} {first}"]
    return lines + [f"{'':<31} {line}" for line in more]


def _refuse(*lines: str) -> NoReturn:
    """End with one line for each mistake in the settings. No log has begun yet."""
    text = "".join(f"relayd: {line}\n" for line in lines)
    sys.stderr.write(with_priority(text, "error") if is_journal(sys.stderr, os.environ) else text)
    raise SystemExit(MISTAKES) from None
