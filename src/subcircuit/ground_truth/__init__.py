"""Ground truth: models whose circuits are known in advance, and how methods do on them."""
