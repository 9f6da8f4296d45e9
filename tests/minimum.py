"""
Prints the lowest version that pyproject.toml allows of each library, as constraints for pip.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def constraints() -> list[str]:
    """One for each library that relayd runs with."""
    with PROJECT.open("rb") as file:
        requirements = tomllib.load(file)["project"]["dependencies"]
    return [re.sub(r"(\[.*?\])?>=", "==", requirement) for requirement in requirements]


if __name__ == "__main__":
    print("\n".join(constraints()))
