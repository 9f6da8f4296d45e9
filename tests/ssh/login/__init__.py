"""The login: keys, agents, passwords and prompts."""
