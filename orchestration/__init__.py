"""The work: experiment specification, plan, sweep (Ray Tune), trial (Ray Train), training loop, tracking and report."""
