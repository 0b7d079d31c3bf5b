"""Tracking in MLflow: runs, metrics, models, and what is read back from them."""
