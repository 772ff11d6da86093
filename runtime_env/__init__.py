"""Environment of the apps: pinned requirements per flavour, the image, and HAProxy's configuration."""
