"""Work cut into shards that do not need each other: here, in processes on this machine, or in jobs of a cluster."""
