"""Training workspace of sem_depth: data, networks, losses, evaluation and export to model bundles."""
