"""The main server of relayd, in both dialects."""
