"""How fast the engine, the estimator, the frame path and the node are on this machine."""
