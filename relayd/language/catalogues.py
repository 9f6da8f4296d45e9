"""
The languages in which a relay speaks to the users of its main server: gettext catalogues beside this module.

What the operator reads, the log first of all, is English everywhere, so that it can be searched for.
"""

from __future__ import annotations

import gettext
from pathlib import Path

from relayd.language.texts import Translate, english

DOMAIN = "relayd"
#: Where the catalogues are; ``make messages`` keeps them.
DIRECTORY = Path(__file__).parent / "locale"


def translator(language: str) -> Translate:
    """
    What translates to *language*: ``en``, or one that has a catalogue.

    :raises FileNotFoundError: when there is none.
    """
    if language == "en":
        return english
    return gettext.translation(DOMAIN, DIRECTORY, [language]).gettext
