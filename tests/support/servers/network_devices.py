"""
Imitations of network devices by FakeNOS, one a platform; run by the Python of build/fakenos.

Arguments: the first port, then the platforms, each of which gets the next port. It says when all of them listen.
"""

import json
import signal
import sys

from fakenos import FakeNOS  # type: ignore[import-not-found]

first, platforms = int(sys.argv[1]), sys.argv[2:]
server = {"plugin": "ParamikoSshServer", "configuration": {"address": "127.0.0.1", "timeout": 1}}
hosts = {
    name: {"username": "admin", "password": "admin", "port": first + number, "platform": name, "server": server}
    for number, name in enumerate(platforms)
}
FakeNOS(inventory={"hosts": hosts}).start()
print(json.dumps({"listening": first}), flush=True)
signal.sigwait([signal.SIGTERM])
