"""Driving frames with measured or rendered depth, and geometry-true augmentation."""
