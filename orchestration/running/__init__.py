"""Trials on a Ray cluster: Ray Tune over Ray Train, the nodes, and what happens when workers fail."""
