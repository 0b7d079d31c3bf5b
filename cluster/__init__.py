"""The face: the `effnet-cluster` command line, local services, job submission."""
