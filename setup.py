"""
What pyproject.toml cannot say: the Twisted plugin is a module in a package directory that belongs to no one project.
"""

from setuptools import find_packages, setup

setup(
    # "twisted/plugins" has, and must have, no __init__.py: find_packages does not see it.
    packages=[*find_packages(include=["relayd", "relayd.*"]), "twisted.plugins"],
    # An editable install then puts this directory on the path, as Twisted's search for plugins needs.
    package_dir={"": "."},
    package_data={
        "relayd": ["py.typed"],
        "relayd.hub.access": ["common-passwords.txt"],
        "relayd.language": ["locale/*/LC_MESSAGES/*"],
        "relayd.status": ["status.css", "status.js"],
    },
)
