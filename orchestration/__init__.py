"""Running experiments: specification, plan, sweep (Ray Tune), trial (Ray Train); training, tracking and report."""
