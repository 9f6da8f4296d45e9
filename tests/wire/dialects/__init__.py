"""The dialects of the uplink: both roles against each other, and anything at all against each."""
