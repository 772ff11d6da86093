"""What the apps run in: pinned requirements per flavour, and the local Ray of a laptop."""
