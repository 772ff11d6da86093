#!/usr/bin/env python3
"""A gcloud for the tests: writes down every command, and answers from a file what a project with those things would.

FAKE_GCLOUD names a directory: `calls.jsonl` gets one list of arguments a line, `things.json` is what exists. A file `fail`
with a line `WORDS<tab>MESSAGE` makes commands with those arguments fail.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

Things = dict[str, Any]


def main(argv: list[str]) -> int:
    home = Path(os.environ["FAKE_GCLOUD"])
    things_file = home / "things.json"
    with (home / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(argv) + "\n")
    if (home / "fail").exists():
        words, _, message = (home / "fail").read_text().partition("\t")
        if {*words.split()} <= {*argv}:
            print(message, file=sys.stderr)
            return 1
    things = json.loads(things_file.read_text()) if things_file.exists() else {}
    arguments, flags = (
        [a for a in argv if not a.startswith("--")],
        dict(a[2:].partition("=")[::2] for a in argv if a.startswith("--")),
    )
    code = answer(arguments, flags, things)
    things_file.write_text(json.dumps(things))
    return code


def answer(words: list[str], flags: dict[str, str], things: Things) -> int:
    if words[0] == "storage":
        return storage(words[1:], flags, things)
    if words[0] in ("projects", "config") or words[:3] == ["iam", "service-accounts", "create"]:
        return access(words, flags, things)
    match words:
        case ["services", "enable", *_] | ["container", "clusters", "get-credentials", _]:
            pass
        case ["builds", "submit", _]:
            things[flags["substitutions"].removeprefix("_IMAGE=")] = {"image_summary": {"digest": "sha256:0"}}
        case ["artifacts", "docker", "images", "describe", image]:
            return show(things.get(image))
        case [*kind, "create" | "create-auto" as verb, name]:
            things["/".join([*kind, name])] = made(verb, flags)
        case [*kind, "describe", name]:
            return show(things.get("/".join([*kind, name])))
        case ["container", "clusters", "update", name]:
            things[f"container/clusters/{name}"]["maintenance"] = flags["maintenance-window-recurrence"]
        case [*kind, "delete", name]:
            del things["/".join([*kind, name])]
        case _:
            print(f"unknown command: {words}", file=sys.stderr)
            return 2
    return 0


def access(words: list[str], flags: dict[str, str], things: Things) -> int:
    match words:
        case ["projects", "describe", _]:
            print("123456789012")
        case ["config", "get-value", "account"]:
            print("anna@example.com")
        case ["projects", verb, project]:
            return bindings(verb, things.setdefault(f"projects/{project}", {"bindings": []}), flags)
        case ["iam", "service-accounts", "create", name]:
            email = f"{name}@{flags['project']}.iam.gserviceaccount.com"
            things[f"iam/service-accounts/{email}"] = {"description": flags["description"]}
    return 0


def storage(words: list[str], flags: dict[str, str], things: Things) -> int:
    match words:
        case ["rm", url]:
            del things[url]
        case ["buckets", "create", url]:
            things[url] = {"location": flags["location"].upper(), "labels": {}, "bindings": [], "caches": []}
        case ["buckets", "update", url]:
            things[url]["labels"] |= labels(flags["update-labels"])
        case ["buckets", "describe", url]:
            return show(things.get(url))
        case ["buckets", "anywhere-caches", *rest]:
            return caches(rest, things)
        case ["buckets", verb, url]:
            return bindings(verb, things.get(url), flags)
    return 0


def caches(words: list[str], things: Things) -> int:
    match words:
        case ["list", url]:
            return show(things[url]["caches"] if url in things else None)
        case ["create", url, zone]:
            things[url]["caches"].append({"id": f"{url.removeprefix('gs://')}/{zone}", "zone": zone, "state": "RUNNING"})
        case ["disable", name]:
            for cache in things[f"gs://{name.split('/')[0]}"]["caches"]:  # which stay for an hour and more
                cache["state"] = "DISABLED"
    return 0


def bindings(verb: str, bucket: dict[str, Any] | None, flags: dict[str, str]) -> int:
    if bucket is None:
        return show(None)
    if verb == "get-iam-policy":
        return show({"bindings": bucket["bindings"]})
    if "condition" not in flags and any("condition" in other for other in bucket["bindings"]):
        print("ERROR: (gcloud) without a condition is prohibited in non-interactive mode", file=sys.stderr)
        return 1
    binding: dict[str, Any] = {"role": flags["role"], "members": [flags["member"]]}
    if (condition := flags.get("condition", "None")) != "None":
        binding["condition"] = dict(pair.split("=", 1) for pair in condition.split(","))
    others = [other for other in bucket["bindings"] if other != binding]
    bucket["bindings"] = [*others, binding] if verb == "add-iam-policy-binding" else others
    return 0


def made(verb: str, flags: dict[str, str]) -> dict[str, object]:
    given = labels(flags.get("labels", ""))
    operator = "RayOperator" in flags.get("addons", "") or "enable-ray-operator" in flags
    return {
        "labels": given,
        "resourceLabels": given,
        "config": {"resourceLabels": given, "machineType": flags.get("machine-type")},
        "placementPolicy": {"tpuTopology": flags.get("tpu-topology")},
        "status": "RUNNING",
        "currentMasterVersion": "1.36.1-gke.1000000",
        "addonsConfig": {"rayOperatorConfig": {"enabled": operator}},
        "networkConfig": {
            "datapathProvider": "ADVANCED_DATAPATH" if "enable-dataplane-v2" in flags or verb == "create-auto" else ""
        },
        "workloadIdentityConfig": {"workloadPool": flags.get("workload-pool", "auto" if verb == "create-auto" else "")},
    }


def labels(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if pair)


def show(thing: object) -> int:
    if thing is None:
        print("ERROR: (gcloud) NOT_FOUND: it is not there", file=sys.stderr)
        return 1
    print(json.dumps(thing))
    return 0


if __name__ == "__main__":
    sys.exit(main([argument for argument in sys.argv[1:] if argument != "--quiet"]))
