"""
The languages in which a relay speaks to the users of its main server: gettext catalogues beside this module.

What the relay's operator reads, such as the log, is always English, so that it can be searched for.
"""

from __future__ import annotations

import gettext
from pathlib import Path

from relayd.language.texts import Translate, english

DOMAIN = "relayd"
#: The folder of the catalogues, which ``make messages`` updates.
DIRECTORY = Path(__file__).parent / "locale"


def translator(language: str) -> Translate:
    """
    A function that translates to *language*, which is ``en`` or has a catalogue.

    :raises FileNotFoundError: when there is no catalogue.
    """
    if language == "en":
        return english
    return gettext.translation(DOMAIN, DIRECTORY, [language]).gettext
