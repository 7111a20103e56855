"""What edgeinfer costs, beside the least that the same work can cost; `scripts/bench` runs it."""
