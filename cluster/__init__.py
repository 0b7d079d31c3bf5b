"""What a person types and sees: the `effnet-cluster` command line, the local services, the submission of jobs."""
