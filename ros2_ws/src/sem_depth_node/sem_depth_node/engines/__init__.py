"""What runs the network: one file an engine, one protocol."""
