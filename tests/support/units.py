"""
A systemd that answers relayctl as the real one (252) does: for ``relayd.service`` as it is packaged, with changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from relayd.ctl.units import NoUnit

_PACKAGED: Final[Mapping[str, tuple[str, Any]]] = {
    "LoadState": ("s", "loaded"),
    "LoadError": ("(ss)", ["", ""]),
    "ActiveState": ("s", "inactive"),
    "FragmentPath": ("s", "/lib/systemd/system/relayd.service"),
    "DropInPaths": ("as", []),
    "NeedDaemonReload": ("b", False),
    "Result": ("s", "success"),
    "ExecMainStatus": ("i", 0),
    "StatusText": ("s", ""),
    "UnitFileState": ("s", "enabled"),
    "MainPID": ("u", 0),
    "ExecStart": (
        "a(sasbttttuii)",
        [
            [
                "/opt/relayd/bin/twistd",
                ["/opt/relayd/bin/twistd", "--nodaemon", "--pidfile=", "relayd", "--config", "/etc/relayd/relayd.toml"],
                False, 0, 0, 0, 0, 0, 0, 0,
            ]
        ],
    ),
    "Environment": ("as", []),
    "EnvironmentFiles": ("a(sb)", [["/etc/default/relayd", True]]),
    "LoadCredential": ("a(ss)", [["api-key", "/etc/relayd/api-key"]]),
    "LoadCredentialEncrypted": ("a(ss)", []),
    "SetCredential": ("a(say)", [["api-key", [10]]]),
    "SetCredentialEncrypted": ("a(say)", []),
    "User": ("s", "relayd"),
    "Group": ("s", "relayd"),
    "SupplementaryGroups": ("as", []),
    "UID": ("u", 0xFFFFFFFF),
    "DynamicUser": ("b", True),
    "StateDirectory": ("as", ["relayd"]),
    "RuntimeDirectory": ("as", ["relayd"]),
    "LogsDirectory": ("as", ["relayd"]),
    "CacheDirectory": ("as", []),
    "ConfigurationDirectory": ("as", []),
    "WorkingDirectory": ("s", ""),
    "ProtectHome": ("s", "yes"),
    "ProtectSystem": ("s", "strict"),
    "PrivateTmp": ("b", True),
    "ReadWritePaths": ("as", []),
}  # fmt: skip


class FakeSystemd:
    """
    Answers what `relayd.ctl.units.ask_systemd` asks.

    :ivar units: the units that there are, by name: what is different from the packaged one.
    """

    def __init__(self) -> None:
        self.units: dict[str, dict[str, Any]] = {"relayd.service": {}}

    def __call__(self, words: Sequence[str]) -> bytes:
        """One answer of ``busctl --json=short call``."""
        name = words[3]
        if name == "LoadUnit":
            return self._answer("o", f"/org/freedesktop/systemd1/unit/{words[5].encode().hex()}")
        if name == "GetAll":
            unit = bytes.fromhex(words[1].rpartition("/")[2]).decode()
            if unit not in self.units:
                return self._answer("a{sv}", {"LoadState": {"type": "s", "data": "not-found"}})
            values = {key: {"type": type, "data": value} for key, (type, value) in _PACKAGED.items()}
            for key, value in self.units[unit].items():
                values[key]["data"] = value
            return self._answer("a{sv}", values)
        if name == "ListUnitsByPatterns":
            start = words[7].partition("*")[0]
            rows = [
                [unit, "", "loaded", changes.get("ActiveState", "inactive"), "", "", "/", 0, "", "/"]
                for unit, changes in self.units.items()
                if unit.startswith(start)
            ]
            return self._answer("a(ssssssouso)", rows)
        raise NoUnit(f"no such method: {words}")

    def _answer(self, type: str, value: Any) -> bytes:
        return json.dumps({"type": type, "data": [value]}).encode()


def command(*words: str) -> list[Any]:
    """The value of ``ExecStart`` for a command line."""
    return [[words[0], list(words), False, 0, 0, 0, 0, 0, 0, 0]]
