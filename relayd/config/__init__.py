"""
The operator's settings: options, the file, the environment, credentials, and how a running relay takes new ones.
"""
