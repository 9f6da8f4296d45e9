"""Hosts and credentials of the hub."""
