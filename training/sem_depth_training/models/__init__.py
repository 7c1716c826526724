"""The depth network family: one class, presets `paper` and `compact`."""
