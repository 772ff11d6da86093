"""The local stack: a Ray head of its own, the apps on it, and their end. `scripts/serve_local.sh` is its command."""
