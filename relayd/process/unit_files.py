"""
The credentials that a unit is given by its files, for a relay in that unit: systemd may not answer its user.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Where the files of units are, the weightiest first (systemd.unit(5)).
FOLDERS: Final = tuple(Path(root, "systemd/system") for root in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"))


def loaded_credentials(unit: str, folders: tuple[Path, ...] = FOLDERS) -> dict[str, str]:
    """
    The ``LoadCredential`` of a unit: the path of the file for each name, as far as its files say.

    :param unit: its name, such as ``relayd@site-1.service``.
    """
    instance = unit.removesuffix(".service").partition("@")[2]
    found: dict[str, str] = {}
    for path in _files(unit, folders):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition("=")
            if key.strip() == "LoadCredential":
                name, _, source = value.strip().partition(":")
                if not name:  # forget those of the lines before
                    found.clear()
                found |= {name: source.replace("%i", instance)} if source else {}
    return found


def _files(unit: str, folders: tuple[Path, ...]) -> Iterator[Path]:
    """The file of a unit and then its drop-ins, in the order in which systemd reads them."""
    before, at, _ = unit.partition("@")
    names = [unit, f"{before}@.service"] if at else [unit]
    yield from [path for name in names for folder in folders if (path := folder / name).is_file()][:1]
    drop_ins: dict[str, Path] = {}
    for name in reversed(names):  # those of the unit itself hide those of its template
        for folder in reversed(folders):
            drop_ins |= {path.name: path for path in folder.glob(f"{name}.d/*.conf")}
    yield from (drop_ins[name] for name in sorted(drop_ins))
