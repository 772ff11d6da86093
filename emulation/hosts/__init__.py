"""The local stack: a Ray head of its own, the apps on it, and how both are stopped. `scripts/serve_local.sh` is its command."""
