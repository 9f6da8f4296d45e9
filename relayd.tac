"""
``twistd -ny relayd.tac``: relayd with its settings from the environment and from the TOML file of RELAYD_CONFIG.
"""

from twisted.application.service import Application

from relayd.tap import Options, makeService

options = Options()
options.parseOptions([])
application = Application("relayd")
makeService(options).setServiceParent(application)
