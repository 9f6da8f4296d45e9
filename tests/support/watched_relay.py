"""
``twistd`` whose relay has its events checked (`tests.support.schemas`), whatever main server it speaks to: it writes
what is wrong to standard error.
"""

import sys

from twisted.scripts.twistd import run

from tests.support import schemas
from tests.support.watched_hub import complain

if __name__ == "__main__":
    schemas.report = complain
    schemas.watch()
    sys.argv[0] = "twistd"
    run()
