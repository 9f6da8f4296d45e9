"""
What the operator has chosen: options, the file, the environment, credentials, and how a running relay takes new ones.
"""
