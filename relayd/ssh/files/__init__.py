"""
Files that are written to a host before a command, and read from it afterwards: by SFTP, or by the user's shell.
"""
