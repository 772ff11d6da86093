"""What the commands share: the connection, the checked spec, and how apps are said."""

import argparse
import sys
from collections.abc import Container
from typing import Any

from kuberay.api import Api, connect
from kuberay.change import Change
from kuberay.checked import Deployment, load_checked
from kuberay.kinds import KINDS

Options = argparse.Namespace


def api_of(options: Options) -> Api:
    """The cluster that the options name. Raises `UserError`."""
    return connect(options.kubeconfig, options.context)


def checked(options: Options) -> Deployment:
    """The spec with its Serve config; warnings go to stderr. Raises `UserError`."""
    wanted = load_checked(options.spec, getattr(options, "serve_config", None))
    for line in wanted.warnings:
        print(line, file=sys.stderr)
    return wanted


def taken_over(options: Options) -> Container[str]:
    """Kinds whose fields `apply` takes from others: with KubeRay's client, which is such an other, what it writes."""
    if options.force:
        return KINDS
    return ("RayCluster",) if options.backend == "python_client" else ()


def app_names(config: dict[str, Any]) -> str:
    """Names of a Serve config's apps."""
    return ", ".join(app["name"] for app in config["applications"])


def say_counts(changes: list[Change], *, dry_run: bool = False) -> None:
    """How many objects are made, changed and as they were, on stderr."""
    count = {verb: sum(one.verb == verb for one in changes) for verb in ("create", "change", "unchanged")}
    would = "would be " if dry_run else ""
    line = f"{count['create']} {would}made, {count['change']} {would}changed, {count['unchanged']} unchanged"
    print(line, file=sys.stderr)
