"""
``twistd -ny relayd-hub.tac``: the hub with its settings from the environment and from the TOML file of
RELAYD_HUB_CONFIG.
"""

from twisted.application.service import Application

from relayd.hub_tap import Options, makeService

options = Options()
options.parseOptions([])
application = Application("relayd-hub")
makeService(options).setServiceParent(application)
