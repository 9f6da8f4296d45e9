"""How hosts are written, matched and looked up, and what else every connection shares."""
