"""Rules about the tree: who may import whom."""
