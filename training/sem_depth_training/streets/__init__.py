"""Rendered street scenes: colour, exact depth, sky masks and simulated LiDAR, deterministic by seed.

Only :mod:`.cycles` and :mod:`.worker` import Blender's ``bpy`` (GPL). They run in a process of their own; the rest of
the package talks to it through files.

World frame (REP 103): x forward along the street, y left, z up, metres.
"""
