"""The demo: a drive through the real node over real DDS, recorded, measured and drawn."""
