"""Paired measurements against plain alternatives; ``effnet-cluster bench`` runs them."""
