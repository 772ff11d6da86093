#!/usr/bin/env python3
"""Run a deployment on Kubernetes from its spec. `scripts/cluster.py --help` lists the commands."""

from _launch import launch

launch("cluster")
