"""Metric depth images and point clouds from one camera, by a diffusion depth network."""

__version__ = "0.1.0"
