"""
What ``relayctl check`` checks of a systemd unit: how it is, and whether the relay in it can use the files that its
settings name, as its user and within its confinement.
"""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from relayd.config.options import OPTIONS, Config
from relayd.config.paths import passed_on
from relayd.config.reading import Reading
from relayd.config.state_directory import give_back
from relayd.ctl.check_space import existing_folder
from relayd.ctl.findings import Level, Report
from relayd.ctl.unit_settings import UnitSettings, entry_of
from relayd.ctl.units import Unit
from relayd.errors import MISTAKES
from relayd.language.texts import printable

#: The user of a unit whose user exists only while it runs: like any that owns no file.
_NOBODY: Final = 65534
_HOMES: Final = ("/home", "/root", "/run/user")
_TMP: Final = ("/tmp", "/var/tmp")
#: By the value of ``ProtectSystem``: where nothing can be written.
_PROTECTED: Final = {
    "no": (),
    "yes": ("/usr", "/boot", "/efi"),
    "full": ("/usr", "/boot", "/efi", "/etc"),
    "strict": ("/",),
}
#: The most characters that are shown of a relay's status line.
_MOST_SAID: Final = 300
#: What everybody may read: nothing secret is in their files.
_NO_SECRETS: Final = ("--config", "--tls-ca", "--tls-cert", "--known-hosts", "certificate-file")
#: What stays writable under ``ProtectSystem=strict``.
_SPARED: Final = ("/dev", "/proc", "/sys")


def check_unit(settings: UnitSettings, note: str, report: Report) -> None:
    """Report on the unit itself; the first line says where its settings are."""
    unit = settings.unit
    if unit.active == "failed":
        why = f"status {unit.status}" if unit.result == "exit-code" else unit.result
        why = "there is a mistake in its settings" if why == f"status {MISTAKES}" else why
        report("warning", "unit", f"{note}; it has failed: {why}; journalctl -u {unit.name} says more")
    elif unit.active == "activating" and unit.result != "success":
        why = f"it ended with status {unit.status}, and systemd starts it again"
        report("warning", "unit", f"{note}; {why}; journalctl -u {unit.name} says why")
    else:
        said = f": {printable(unit.said, _MOST_SAID)}" if unit.said and unit.active != "inactive" else ""
        boot = f" (systemctl enable {unit.name} starts it at boot)" if unit.enabled == "disabled" else ""
        # A relay starts until the main server accepts it, and then stays active.
        level: Level = "warning" if unit.active == "activating" else "ok"
        report(level, "unit", f"{note}; it is {unit.active}{boot}{said}")
    if unit.user and not unit.dynamic and not _exists(unit.user):
        text = f"there is no user {unit.user}, whom User={unit.user} names: create it, or remove that line"
        report("fault", "unit", f"{text} (systemctl cat {unit.name} shows the file)")
    if unit.outdated:
        report("warning", "unit", "its files have changed since systemd read them: systemctl daemon-reload")
    for path, optional in unit.environment_files:
        if not optional and not os.path.exists(path) and not set(path) & set("*?["):
            report("fault", "unit", f"there is no file {path}, which EnvironmentFile names: systemd cannot start it")


def check_what_the_unit_sees(settings: UnitSettings, reading: Reading, report: Report) -> None:
    """Report on files that root can use and the relay cannot, and on credentials that systemd cannot pass."""
    unit, config = settings.unit, reading.config
    if config is None:
        return
    told = "\n".join(map(str, reading.mistakes))
    for credential, source in settings.elsewhere.sources.items():
        if not os.path.exists(source) and source not in told:
            name = os.path.basename(credential)
            line = f"LoadCredential={name}:{unit.credentials[name]}"
            text = f"there is no file {source}, which {line} names: systemd cannot start the unit"
            report("fault", "unit", text)
        elif unit.pid and _differ(source, credential):
            text = f"{source} has changed since {unit.name} started, and the relay has what it was then"
            report("warning", "unit", f"{text}: systemctl restart {unit.name}")
    sight = _Sight(unit, tuple(settings.elsewhere.sources.values()))
    names = {source: os.path.basename(credential) for credential, source in settings.elsewhere.sources.items()}
    for whose, path in _read_by(config):
        given = reading.given.get(whose.removeprefix("--"))
        directly = path in names and given is not None and given.text.strip() == path
        if reason := sight.hinders_reading(path, whose.partition(" ")[0] in _NO_SECRETS, directly=directly):
            if directly:
                reason = f"the user of {unit.name} cannot read {path}; {passed_on(names[path])}"
            report("fault", "unit", f"{whose}: {reason}")
    if foreign := _foreign_file(config.state_dir):
        text = f"another user than that of {config.state_dir} owns {foreign}: {give_back(config.state_dir)}"
        report("fault", "unit", text)
    for whose, path in _written_by(config):
        if reason := sight.hinders_writing(path):
            report("fault", "unit", f"{whose}: {reason}")


def _differ(source: str, credential: str) -> bool:
    """Whether a file is another one than that which systemd passed on; not if one cannot be read."""
    try:
        return Path(source).read_bytes() != Path(credential).read_bytes()
    except OSError:
        return False


def check_holder(unit: Unit, holder: str | None, report: Report) -> None:
    """Report on a relay that uses the state directory of a unit and is not of that unit: it was started by hand."""
    if holder and holder != str(unit.pid):
        text = f"process {holder} uses it, not {unit.name}, which cannot run beside it: end one of the two"
        report("fault", "state directory", text)


def _exists(user: str) -> bool:
    return user.isdigit() or entry_of(user) is not None  # systemd takes any number


def _foreign_file(folder: str) -> str:
    """
    A file in a folder that another user owns than the folder itself, as after a relay that root ran there. Where the
    folder itself has another owner, systemd gives all of it to the user of the unit.
    """
    try:
        owner = os.stat(folder).st_uid
        with os.scandir(folder) as found:
            return next((each.path for each in found if each.stat(follow_symlinks=False).st_uid != owner), "")
    except OSError:
        return ""


def _read_by(config: Config) -> Iterator[tuple[str, str]]:
    """The files that a relay reads, and which option names each."""
    for option in OPTIONS:
        path = getattr(config, option.attribute)
        if option.is_path and path is not None and option.name not in ("state-dir", "audit-log"):
            yield option.flag_name, path
    for kind, number, row in config.logins:
        for key in ("key_file", "passphrase_file", "certificate_file", "password_file"):
            if (path := getattr(row, key)) is not None:
                yield f"{key.replace('_', '-')} of [[{kind}]] number {number}", path
    for number, rule in enumerate(config.hosts, 1):
        if (become := rule.settings.become) is not None and become.password_file is not None:
            yield f"become-password-file of [[hosts]] number {number}", become.password_file


def _written_by(config: Config) -> Iterator[tuple[str, str]]:
    """The folders in which a relay makes files, and which option names each."""
    yield "--state-dir", config.state_dir
    if config.audit_log is not None:
        yield "--audit-log", os.path.dirname(config.audit_log)
    if config.host_keys == "accept-new" and os.path.dirname(config.known_hosts) != config.state_dir:
        yield "--known-hosts", os.path.dirname(config.known_hosts)
    if config.status is not None and config.status.path:
        yield "--status", os.path.dirname(config.status.path)


class _Identity(Struct, frozen=True):
    uid: int
    gids: tuple[int, ...]


class _Sight:
    """
    What the processes of a unit can reach.

    :param passed: files that systemd itself reads for it.
    """

    def __init__(self, unit: Unit, passed: Sequence[str]) -> None:
        self._unit = unit
        self._passed = passed
        self._own = tuple(folder for folders in unit.directories.values() for folder in folders)
        self._identity = _identity(unit)

    def hinders_reading(self, path: str, public: bool, *, directly: bool = False) -> str:
        """
        Why a relay cannot read a file, with what to do; empty: it can, or the file does not exist.

        :param public: whether everybody may read it.
        :param directly: whether it reads the file itself, though systemd passes it on.
        """
        if (path in self._passed and not directly) or _is_in(path, self._own) or not os.path.exists(path):
            return ""
        pass_it = f"put LoadCredential=NAME:{path} into a drop-in, and give $CREDENTIALS_DIRECTORY/NAME as the path"
        if hidden := self._hidden(path):
            advice = "move it, such as to /etc/relayd" if public else pass_it
            return f"{hidden} hides {path} from {self._unit.name}: {advice}"
        if not self._may(path, os.R_OK):
            advice = "chmod a+r it, and a+x its folders" if public else pass_it
            return f"the user of {self._unit.name} cannot read {path}: {advice}"
        return ""

    def hinders_writing(self, folder: str) -> str:
        """Why a relay cannot write to a folder, with what to do; empty: it can."""
        unit = self._unit
        if _is_in(folder, self._own):
            return ""
        own = f", or use one that the unit has: {', '.join(self._own)}" if self._own else ""
        if hidden := self._hidden(folder):
            return f"{hidden} hides {folder} from {unit.name}: use another folder{own}"
        allowed = tuple(each.lstrip("+-") for each in unit.writable) + _SPARED
        protected = unit.protect_system in _PROTECTED and _is_in(folder, _PROTECTED[unit.protect_system])
        if protected and not _is_in(folder, allowed):
            setting = f"ProtectSystem={unit.protect_system}"
            return (
                f"{setting} keeps {unit.name} from writing to {folder}: put ReadWritePaths={folder} into a drop-in{own}"
            )
        existing = existing_folder(folder)
        if not self._may(existing, os.W_OK | os.X_OK):
            return f"the user of {unit.name} cannot write to {existing}: let that user write there{own}"
        return ""

    def _hidden(self, path: str) -> str:
        """The setting that hides a path from the unit; empty: none does."""
        if self._unit.protect_home in ("yes", "tmpfs") and _is_in(path, _HOMES):
            return f"ProtectHome={self._unit.protect_home}"
        return "PrivateTmp=yes" if self._unit.private_tmp and _is_in(path, _TMP) else ""

    def _may(self, path: str, how: int) -> bool:
        if self._identity is None:
            return True
        try:
            with _acting_as(self._identity):
                return os.access(path, how, effective_ids=True)
        except PermissionError:  # root of a container may not be somebody else
            return True


def _is_in(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder.rstrip('/')}/") for folder in folders)


def _identity(unit: Unit) -> _Identity | None:
    """Whom the relay runs as; ``None``: as root, or as somebody whom this process cannot be."""
    if (not unit.user and not unit.dynamic) or os.geteuid() != 0:
        return None
    uid, gids = _NOBODY if unit.uid is None else unit.uid, []
    if not unit.dynamic:
        entry = entry_of(unit.user)
        if entry is None:
            return None
        uid, gids = entry.pw_uid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    for name in filter(None, (unit.group, *unit.groups)):
        try:
            gids.insert(
                0 if name == unit.group else len(gids),
                grp.getgrgid(int(name))[2] if name.isdigit() else grp.getgrnam(name)[2],
            )
        except KeyError:  # a group that exists only while it runs
            continue
    return _Identity(uid, tuple(gids or [uid]))


@contextmanager
def _acting_as(identity: _Identity) -> Iterator[None]:
    """Be somebody else for a look at files; only root can."""
    groups, gid, uid = os.getgroups(), os.getegid(), os.geteuid()
    try:
        os.setgroups(identity.gids)
        os.setegid(identity.gids[0])
        os.seteuid(identity.uid)
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)
