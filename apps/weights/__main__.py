"""`python -m apps.weights`: stage a model, prefetch it, verify a copy, list what is staged.

Exit codes: 0 done, 1 failed, 2 bad input, 3 content does not match its manifest or receipt.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from apps.common.command_line import reports_errors
from apps.common.errors import UserError
from apps.common.option_types import whole_number
from apps.weights.args import MAX_CONNECTIONS, MODES
from apps.weights.receipt import RECEIPT_NAME
from apps.weights.retry import STALL_S


@reports_errors("stopped; what was copied stays, and the same command continues with the rest")
def main(argv: Sequence[str]) -> int:
    """Run the command; an error that is meant for people is printed as one line."""
    options = _parser().parse_args(argv)
    options.run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apps.weights", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    stage = commands.add_parser("stage", help="copy a model from the hub, or a directory, to a bucket")
    stage.set_defaults(run=_stage)
    add = stage.add_argument
    add("source", metavar="SOURCE", help="a hub id such as google/gemma-4-31B-it, or a directory")
    add("--to", required=True, metavar="URL", help="gs://BUCKET/MODEL, file:///DIR, or a directory")
    add("--revision", help="branch, tag or commit of the hub's model (default: its main branch)")
    add("--allow", metavar="PATTERN", action="append", default=[], help="only files that match (may be repeated)")
    unread = "no files that match (default: files that no server of safetensors reads)"
    add("--ignore", metavar="PATTERN", action="append", help=unread)
    add("--parallel", type=whole_number, default=8, help="ranges in flight, 64 MiB each (default: %(default)s)")
    add("--replace", action="store_true", help="overwrite another model or revision that is staged there")
    add("--region", help="refuse a bucket that is not in this region, such as us-east5")
    add("--dry-run", action="store_true", help="list the files and their sizes, and copy nothing")

    fetch = commands.add_parser("prefetch", help="copy a staged model to this host's disk, or to every host of a Ray cluster")
    fetch.set_defaults(run=_prefetch)
    add = fetch.add_argument
    add("url", metavar="URL", help="URL of the staged model")
    add("--to", required=True, metavar="DIR", help="a directory on the host's own disk")
    add("--all-slices", action="store_true", help="on every TPU host of the Ray cluster, each slice sharing its reads")
    add("--mode", choices=sorted({*MODES} - {"stream"}), default=MODES[0], help="of --all-slices (default: %(default)s)")
    connections = "maximum number of connections (default: %(default)s)"
    add("--parallel", type=whole_number, default=MAX_CONNECTIONS, help=connections)
    stalled = "retry a range after so many seconds without a byte"
    add("--stall", type=whole_number, default=STALL_S, metavar="S", help=stalled)

    verify = commands.add_parser("verify", help="compare a copy with its receipt, or a staged model with its manifest")
    verify.set_defaults(run=_verify)
    verify.add_argument("place", metavar="DIR_OR_URL")
    verify.add_argument("--deep", action="store_true", help="read and hash every byte, rather than sizes and times")

    show = commands.add_parser("list", help="list what is staged at a URL")
    show.set_defaults(run=_list)
    show.add_argument("url", metavar="URL")
    show.add_argument("--json", action="store_true", help="print the manifest as JSON")
    return parser


def _stage(options: argparse.Namespace) -> None:
    from apps.weights import progress, sources
    from apps.weights.stage import stage
    from apps.weights.store import Store

    ignore = sources.IGNORED if options.ignore is None else options.ignore
    source = sources.open_source(options.source, options.revision, options.allow, ignore)
    store = Store(options.to)
    _check_region(store.location() if options.region else None, options.region, options.to)
    if options.dry_run:
        for file in source.files:
            print(f"{file.size_bytes:>15,}  {file.name}")
        size = progress.gib(sum(file.size_bytes for file in source.files))
        print(f"{len(source.files)} files, {size}, of {source.name} at {source.revision} would go to {store.url}")
        return
    with progress.for_stream() as shown:
        done = stage(source, store, shown, parallel=options.parallel, replace=options.replace)
    read = progress.gib(shown.moved_bytes)
    print(f"staged {done.source} at {done.revision} in {store.url}: {len(done.files)} files, {progress.gib(done.size_bytes)}")
    print(f"{read} read from the source by this run; licence: {done.licence or 'not stated'}")


def _prefetch(options: argparse.Namespace) -> None:
    from apps.weights import progress
    from apps.weights.prefetch import prefetch

    if options.all_slices:
        from apps.weights.cluster import prefetch_all_slices

        for name, outcome in prefetch_all_slices(options.url, options.to, options.mode, options.stall).items():
            print(f"{name}: {outcome}")
        return
    with progress.for_stream() as shown:
        done = prefetch(options.url, Path(options.to), shown, parallel=options.parallel, stall_s=options.stall)
    print(f"{options.to} is whole: {progress.gib(done.size_bytes)}, of which {progress.gib(done.read_bytes)} were read now")


def _verify(options: argparse.Namespace) -> None:
    from apps.weights import progress
    from apps.weights.verify import verify_directory, verify_url

    path = Path(options.place).expanduser()
    with progress.for_stream() as shown:
        if path.is_dir() and (path / RECEIPT_NAME).exists():
            count = len(verify_directory(path, shown, deep=options.deep).files)
        else:
            count = len(verify_url(options.place, shown, deep=options.deep).files)
    print(f"{options.place}: {count} files are right ({'content' if options.deep else 'size and time or checksum'})")


def _list(options: argparse.Namespace) -> None:
    from apps.weights import manifest, progress
    from apps.weights.store import Store, whole_manifest

    model = whole_manifest(Store(options.url))
    if options.json:
        print(json.dumps({**asdict(model), "size_bytes": model.size_bytes, "digest": model.digest}))
        return
    print(
        f"{model.source} at {model.revision}, staged {model.created} by {model.tool}, licence {model.licence or 'not stated'}"
    )
    for file in model.files:
        print(f"{file.size_bytes:>15,}  {file.sha256[:16]}  {file.name}")
    print(f"{len(model.files)} files, {progress.gib(model.size_bytes)}; {options.url}/{manifest.MANIFEST_NAME}")


def _check_region(actual: str | None, wanted: str | None, url: str) -> None:
    if wanted and actual and actual != wanted.lower() and not wanted.lower().startswith(f"{actual}-"):
        raise UserError(
            f"{url} is in {actual}, not in {wanted}: a slice would read its weights from another region; use another bucket"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
