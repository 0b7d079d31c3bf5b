"""What each trial takes of a cluster, and in which order trials run: pure functions, without Ray."""
