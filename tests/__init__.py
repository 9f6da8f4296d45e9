"""
All tests: in the folders of relayd, and beside those what meets real peers, the whole of relayd, and its documents.
"""

import sys

# Not where something else runs, such as a peer, which has no use for it and starts often.
if "twisted.trial" in sys.modules:
    from hypothesis import HealthCheck, settings

    from tests.support import schemas

    # How long an example takes depends on what else the machine does.
    settings.register_profile("relayd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("relayd")
    # Every event of a test is held against docs/schemas.
    schemas.watch()
