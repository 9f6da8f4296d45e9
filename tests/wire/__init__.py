"""The messages between a main server and a relay: how they are read, and their bounds."""
