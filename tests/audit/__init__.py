"""The audit log: what is in it, and how what somebody did to it is found."""
