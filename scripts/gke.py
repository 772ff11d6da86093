#!/usr/bin/env python3
"""Make, check and remove what a deployment needs in Google Cloud. `scripts/gke.py --help` lists the commands."""

from _launch import launch

launch("gke")
