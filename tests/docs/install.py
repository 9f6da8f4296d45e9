"""
What ``pip install .`` does on a page, without the registry: ``install.py VENV WHEEL`` puts a wheel into an environment,
beside the libraries of the Python that runs the tests.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

#: What these give of themselves, as pip would write it.
SCRIPTS = {
    "twistd": "from twisted.scripts.twistd import run; run()",
    "twist": "from twisted.application.twist._twist import Twist; Twist.main()",
}


def main(environment: Path, wheel: Path) -> None:
    """Install."""
    python = environment / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    Path(site, "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n" + sysconfig.get_path("platlib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    for name, code in SCRIPTS.items():
        script = environment / "bin" / name
        script.write_text(f"#!{python}\nimport sys\nsys.argv[0] = {name!r}\n{code}\n")
        script.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
