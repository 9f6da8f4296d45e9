"""Relays at the hub: keys, enrolment, presence."""
