"""Reading a dataset: from its manifest, in an exact order of samples, to batches."""
