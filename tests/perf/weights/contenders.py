"""One way to fetch a bucket's files into a directory, alone in its process: `... contenders NAME ADDRESS DIR`.

Ends when every file is on the disk (fsync); the caller takes the time and the peak of memory. Imports are not counted: it
prints `ready` and waits for a line.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.perf.weights.server import BUCKET, REPOSITORY


def ours(address: str, directory: Path) -> Callable[[], None]:
    from apps.weights.prefetch import prefetch
    from apps.weights.progress import Progress
    from apps.weights.store import Store

    os.environ["STORAGE_EMULATOR_HOST"] = address
    Store(f"gs://{BUCKET}")  # imports gcsfs
    return lambda: print(prefetch(f"gs://{BUCKET}", directory, Progress()))


def gcsfs_get(address: str, directory: Path) -> Callable[[], None]:
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # its gRPC client does not speak to this server
    from gcsfs import GCSFileSystem

    fs = GCSFileSystem(token="anon", endpoint_url=address)
    return lambda: fs.get(f"{BUCKET}/", str(directory), recursive=True)


def pyarrow_copy(address: str, directory: Path) -> Callable[[], None]:
    """What Ray's own bucket download does."""
    import pyarrow.fs as pafs

    fs = pafs.GcsFileSystem(anonymous=True, scheme="http", endpoint_override=address.removeprefix("http://"))
    local = pafs.LocalFileSystem()
    return lambda: pafs.copy_files(BUCKET, str(directory), source_filesystem=fs, destination_filesystem=local)


def snapshot_download(address: str, directory: Path) -> Callable[[], None]:
    os.environ |= {"HF_ENDPOINT": address, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    from huggingface_hub import snapshot_download as download

    return lambda: print(download(REPOSITORY, local_dir=directory))


def plain_write(source: str, directory: Path) -> Callable[[], None]:
    """What the disk allows: the same files written from memory, without a network. `source` is their directory."""
    files = [(path.name, path.stat().st_size) for path in sorted(Path(source).glob("*.safetensors"))]
    block = memoryview(next(Path(source).glob("*.safetensors")).read_bytes()[: 16 * 1024**2])

    def write() -> None:
        for name, size in files:
            with (directory / name).open("wb", buffering=0) as file:
                for start in range(0, size, len(block)):
                    file.write(block[: size - start])

    return write


CONTENDERS = {
    "this project": ours,
    "gcsfs.get": gcsfs_get,
    "pyarrow copy_files": pyarrow_copy,
    "snapshot_download": snapshot_download,
    "plain writing": plain_write,
}


def main(name: str, source: str, directory: Path) -> int:
    """Prepare, wait for a line on stdin, copy the files, make sure that they are on the disk."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    copy_weights = CONTENDERS[name](source, directory)
    print("ready", flush=True)
    sys.stdin.readline()
    copy_weights()
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
