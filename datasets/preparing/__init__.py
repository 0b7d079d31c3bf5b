"""Making a dataset: from image sources to WebDataset shards and their manifest."""
