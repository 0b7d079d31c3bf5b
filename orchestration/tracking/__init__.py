"""What is recorded of a training in MLflow, and read back from there: runs, metrics, models."""
