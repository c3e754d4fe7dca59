"""Several processes as one: `accelerate launch` or `torchrun` starts them, each takes its share of the rows."""
