"""
Imitations of network devices by FakeNOS, one a platform; run by the Python of build/fakenos.

Arguments: the first port, then the platforms, each of which gets the next port. It says when all of them listen.
"""

import errno
import json
import os
import random
import signal
import sys
import traceback

from fakenos import FakeNOS  # type: ignore[import-not-found]

first, platforms = int(sys.argv[1]), sys.argv[2:]
server = {"plugin": "ParamikoSshServer", "configuration": {"address": "127.0.0.1", "timeout": 1}}
hosts = {
    name: {"username": "admin", "password": "admin", "port": first + number, "platform": name, "server": server}
    for number, name in enumerate(platforms)
}
try:
    FakeNOS(inventory={"hosts": hosts}).start()
except OSError as error:
    if error.errno != errno.EADDRINUSE:
        traceback.print_exc()
        os._exit(1)  # the threads of those that listen would keep it
    # Another process has one of the ports: begin anew with others, in a process without those threads.
    os.execv(sys.executable, [sys.executable, __file__, str(random.randrange(20_000, 32_000)), *platforms])
print(json.dumps({"listening": first}), flush=True)
signal.sigwait([signal.SIGTERM])
