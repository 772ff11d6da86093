"""Deploy the Serve config of a file on a head that knows of no Serve: one that has come in the place of a lost one.

`python -m apps.common.redeploy FILE` runs beside the head in its pod, for as long as that lives. The file is that of a
ConfigMap, which whoever deploys keeps. A Serve that was started is left alone, whatever it serves.
"""

import sys
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from apps.common.settings import ray_headers

_URL = "http://127.0.0.1:8265/api/serve/applications/"
_TIMEOUT_S = 20
_POLL_S = 5.0


def wanted(file: Path) -> dict[str, Any] | None:
    """The config to deploy; None before the first deploy, and where the file holds no config."""
    config = yaml.safe_load(file.read_text()) if file.exists() else None
    return config if isinstance(config, dict) and config.get("applications") else None


def redeploy(file: Path, url: str = _URL) -> bool:
    """Deploy the config if no Serve runs; True if that was done. Raises httpx's errors of the dashboard."""
    seen = httpx.get(url, headers=ray_headers(), timeout=_TIMEOUT_S).raise_for_status().json()
    config = None if (seen.get("controller_info") or {}).get("actor_id") else wanted(file)
    if config is None:
        return False
    httpx.put(url, json=config, headers=ray_headers(), timeout=_TIMEOUT_S).raise_for_status()
    return True


def main(file: Path) -> None:
    """Do so again and again."""
    while True:
        try:
            if redeploy(file):
                print(f"no Serve ran on this head: deployed {file}", flush=True)
        except (httpx.HTTPError, OSError, ValueError, yaml.YAMLError) as error:  # the head starts or ends, or the file is bad
            print(f"not deployed: {error}", file=sys.stderr, flush=True)
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
