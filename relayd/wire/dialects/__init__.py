"""The dialects of the uplink, which frame its events: codecs without I/O, for both ends."""
