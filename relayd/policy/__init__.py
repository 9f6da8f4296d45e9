"""
What the site allows: the rules for hosts, users and commands.
"""
