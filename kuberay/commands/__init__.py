"""The commands of scripts/cluster.py, each of which prints, and raises what went wrong; here is what they share."""

import argparse
import sys

from kuberay.api import Api, connect
from kuberay.apply import Change
from kuberay.clusters import with_backend
from kuberay.consistency import Deployment, load_checked

Options = argparse.Namespace


def connected(options: Options) -> Api:
    """The cluster that the options name, through the client that they name. Raises `UserError`."""
    return with_backend(connect(options.kubeconfig, options.context), options.backend)


def checked(options: Options) -> Deployment:
    """The spec with its Serve config; warnings go to stderr. Raises `UserError`."""
    wanted = load_checked(options.spec, getattr(options, "serve_config", None))
    for line in wanted.warnings:
        print(line, file=sys.stderr)
    return wanted


def print_counts(changes: list[Change], *, dry_run: bool = False) -> None:
    """How many objects are made, changed and as they were, on stderr."""
    count = {verb: sum(change.verb == verb for change in changes) for verb in ("create", "change", "unchanged")}
    would = "would be " if dry_run else ""
    line = f"{count['create']} {would}made, {count['change']} {would}changed, {count['unchanged']} unchanged"
    print(line, file=sys.stderr)
