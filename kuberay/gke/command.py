"""`scripts/gke.py`: plan, up, status, down."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from apps.common.command_line import reports_errors
from apps.common.errors import OperationError
from kuberay.gke import gcloud
from kuberay.gke.access import NEEDED_ROLES
from kuberay.gke.gcloud import Resource
from kuberay.gke.resources import credentials, resources
from kuberay.spec import Spec, load

_BUCKET = ("bucket ", "Rapid Cache")


@reports_errors("stopped; what was made stays, and the same command goes on from there")
def main(argv: Sequence[str]) -> int:
    """Run a command. Exit codes: 0 done, 1 failed, 2 bad input."""
    options = _parser().parse_args(argv)
    run: Callable[[Spec, argparse.Namespace], None] = options.run
    run(load(options.spec), options)
    return 0


def plan(spec: Spec, options: argparse.Namespace) -> None:  # noqa: ARG001 - as every command
    """Print the commands that `up` would run in an empty project, as a shell script."""
    print(f"# What scripts/gke.py up runs for {spec.name}, where nothing is there yet.")
    print(f"PROJECT_NUMBER=$({gcloud.shown(_number(spec))})")
    for resource in resources(spec):
        print(f"\n# {resource.title}")
        for argv in resource.create:
            print(gcloud.shown(argv))
    print(f"\n# kubeconfig\n{gcloud.shown(credentials(spec))}")


def up(spec: Spec, options: argparse.Namespace) -> None:  # noqa: ARG001
    """Make what is not there, check what is."""
    number = gcloud.run(_number(spec)).strip()
    _note_roles(spec)
    for resource in resources(spec):
        there = gcloud.inspect(resource)
        if there is not None:
            _check(resource, there)
            note = "" if resource.is_ours(there) else " (not made for this deployment: down leaves it)"
            print(f"{'there already':>14}  {resource.title}{note}")
            continue
        for argv in resource.create:
            print(f"{'':>14}  {gcloud.shown(argv)}", flush=True)
            gcloud.run(argv, number)
        if resource.problem:
            _check(resource, gcloud.inspect(resource))
        print(f"{'made':>14}  {resource.title}", flush=True)
    gcloud.run(credentials(spec))
    print(f"{'kubeconfig':>14}  points at {spec.cloud.cluster}; next: scripts/cluster.py apply")


def status(spec: Spec, options: argparse.Namespace) -> None:
    """Print of each thing whether it is there, in which state, and what is wrong with it."""
    rows = []
    for resource in resources(spec):
        if resource.describe is None:
            continue
        there = gcloud.inspect(resource)
        state = "not there" if there is None else resource.state(there)
        rows.append({"what": resource.title, "there": there is not None, "state": state, "problem": _problem(resource, there)})
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        problem = f"; {row['problem']}" if row["problem"] else ""
        print(f"{'✓' if row['there'] else '-'} {row['what']}: {row['state']}{problem}")


def down(spec: Spec, options: argparse.Namespace) -> None:
    """Remove what up made, the last first."""
    number = gcloud.run(_number(spec)).strip()
    left = []
    for resource in reversed(resources(spec)):
        if not resource.delete or resource.describe is None:
            continue
        if options.keep_bucket and resource.title.startswith(_BUCKET):
            print(f"{'kept':>14}  {resource.title}")
        elif not _remove(resource, number, dry_run=options.dry_run):
            left.append(resource.title)
    if left:
        raise OperationError(f"{', '.join(left)}: not empty yet; run `scripts/gke.py down` again in an hour or two")


def _check(resource: Resource, there: gcloud.Description | None) -> None:
    if problem := _problem(resource, there):
        raise OperationError(f"{resource.title} {problem}")


def _problem(resource: Resource, there: gcloud.Description | None) -> str | None:
    return resource.problem(there) if resource.problem and there is not None else None


def _note_roles(spec: Spec) -> None:
    """Roles are seen where the person has them directly, and may see them, so a lack is a note: a group may give them."""
    person = gcloud.run(("config", "get-value", "account")).strip()
    try:
        policy = gcloud.describe(("projects", "get-iam-policy", spec.cloud.project)) or {}
    except OperationError as error:
        print(f"note: whether {person} has the roles that are needed cannot be seen: {error}", file=sys.stderr)
        return
    bindings = policy.get("bindings") or []
    own = {binding["role"] for binding in bindings if any(who.endswith(f":{person}") for who in binding["members"])}
    missing = [role for role in NEEDED_ROLES if role not in own]
    if missing and "roles/owner" not in own:
        print(f"note: {person} does not have by itself (a group may give it): {', '.join(missing)}", file=sys.stderr)


def _remove(resource: Resource, number: str, *, dry_run: bool) -> bool:
    """Remove a thing if `up` has made it; False where it has to be tried again later."""
    there = gcloud.inspect(resource)
    if there is None:
        print(f"{'not there':>14}  {resource.title}")
    elif not resource.is_ours(there):
        print(f"{'stays':>14}  {resource.title}: was not made by this command")
    elif resource.empty_first and not dry_run and gcloud.describe(resource.empty_first):
        print(f"{'stays':>14}  {resource.title}: its Rapid Cache lives for an hour and more after it is disabled")
        return False
    else:
        for argv in resource.delete:
            if dry_run:
                print(f"{'would run':>14}  {gcloud.shown(argv)}")
            else:
                gcloud.run(argv, number)
                print(f"{'deleted':>14}  {resource.title}", flush=True)
    return True


def _number(spec: Spec) -> gcloud.Argv:
    return ("projects", "describe", spec.cloud.project, "--format=value(projectNumber)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/gke.py", description="What a deployment needs in Google Cloud, from its spec."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, what in (
        (plan, "print the gcloud commands; nothing is asked or changed"),
        (up, "make what is not there yet"),
        (status, "what is there, and in which state"),
        (down, "remove what up has made, and nothing else"),
    ):
        command = commands.add_parser(run.__name__, help=what, description=what)
        command.add_argument("spec", metavar="SPEC", type=Path, help="the cluster's spec, such as cluster.yaml")
        command.set_defaults(run=run)
        if run is status:
            command.add_argument("--json", action="store_true")
        if run is down:
            command.add_argument("--keep-bucket", action="store_true", help="the staged weights stay")
            command.add_argument("--dry-run", action="store_true", help="print what would be run")
    return parser
