"""
What ``pip install .`` does on a page, without the registry: ``install.py VENV INSTALLED`` puts what pip has installed
in another environment (`tests.support.built.installed`) into a new one, beside the libraries of the Python that runs
the tests.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

#: What the libraries give of themselves, as pip would write it.
SCRIPTS = {
    "twistd": "from twisted.scripts.twistd import run; run()",
    "twist": "from twisted.application.twist._twist import Twist; Twist.main()",
}


def main(environment: Path, installed: Path) -> None:
    """Install."""
    python = environment / "bin" / "python"
    old, new = (Path(sysconfig.get_path("purelib", "venv", {"base": str(base)})) for base in (installed, environment))
    for path in old.iterdir():
        if path.name == "twisted":  # there Twisted keeps what it knows of plugins
            shutil.copytree(path, new / path.name, dirs_exist_ok=True)
        else:
            (new / path.name).unlink(missing_ok=True)
            (new / path.name).symlink_to(path)
    (new / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n" + sysconfig.get_path("platlib") + "\n")
    for name in ("relayd", "relayctl"):
        _, _, code = (installed / "bin" / name).read_text().partition("\n")
        _write(environment / "bin" / name, f"#!{python}\n{code}")
    for name, code in SCRIPTS.items():
        _write(environment / "bin" / name, f"#!{python}\nimport sys\nsys.argv[0] = {name!r}\n{code}\n")


def _write(script: Path, text: str) -> None:
    script.write_text(text)
    script.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
