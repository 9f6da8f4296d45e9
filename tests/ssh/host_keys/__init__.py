"""Which key a host must show."""
