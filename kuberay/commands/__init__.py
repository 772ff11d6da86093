"""The commands of scripts/cluster.py: each prints, and raises what went wrong."""
