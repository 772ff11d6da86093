"""Follow a deployment until it is ready or gone, and say on the way what it waits for."""

import time
from collections.abc import Callable, Mapping

from apps.common.errors import OperationError
from kuberay.api import Api
from kuberay.reasons import pod_name, reasons
from kuberay.spec import Spec
from kuberay.state import State, is_ready, read_state

_POLL_S = 2.0
Say = Callable[[str], None]


def until_ready(api: Api, spec: Spec, say: Say, timeout_s: float) -> State:
    """Wait for head, hosts and staged weights; `say` is told when what is waited for changes, and of every pod that is lost.

    Raises:
        OperationError: not ready in time, with every reason; or KubeRay refuses the spec, at once.
        ApiError: the API server refuses to be asked.
    """
    deadline = time.monotonic() + timeout_s
    before: State | None = None
    while not ((state := read_state(api, spec)).ready() and state.staged()):
        for line in lost(before, state):
            say(line)
        waiting = reasons(state)
        say(summary(state) + "".join(f"\n  {one}" for one in waiting))
        if any(one.hopeless for one in waiting):
            raise OperationError("; ".join(str(one) for one in waiting if one.hopeless))
        if time.monotonic() > deadline:
            raise OperationError(f"not ready after {timeout_s:.0f} s:" + "".join(f"\n  {one}" for one in waiting))
        before = state
        time.sleep(_POLL_S)
    return state


def until_gone(api: Api, spec: Spec, labels: Mapping[str, str], say: Say, timeout_s: float) -> None:
    """Wait until none of the pods with these labels is left.

    Raises:
        OperationError: some are left at the deadline; they are named.
    """
    deadline = time.monotonic() + timeout_s
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    while pods := api.objects("Pod", spec.namespace, selector):
        left = ", ".join(sorted(pod["metadata"]["name"] for pod in pods))
        say(f"{len(pods)} pods are ending")
        if time.monotonic() > deadline:
            raise OperationError(f"after {timeout_s:.0f} s there is still {left}")
        time.sleep(_POLL_S)


def summary(state: State) -> str:
    """For example `head ready, 3 of 4 hosts ready`."""
    head = "head ready" if state.head and is_ready(state.head) else "head not ready"
    return f"{head}, {sum(map(is_ready, state.hosts))} of {state.wanted_hosts} hosts ready"


def lost(before: State | None, now: State) -> list[str]:
    """What happened to pods that were there: a slice whose host fails is replaced as a whole."""
    if before is None:
        return []
    living = {pod["metadata"]["uid"] for pod in now.pods}
    gone = [pod for pod in before.pods if pod["metadata"]["uid"] not in living]
    return [f"{pod_name(pod)} ({pod['metadata']['name']}) is gone; KubeRay replaces it" for pod in gone]
