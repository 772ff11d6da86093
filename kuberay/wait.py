"""Follow a deployment until it is ready or gone, and report on the way what it waits for."""

import time
from collections.abc import Callable, Mapping

from apps.common.errors import OperationError
from kuberay.api import Api
from kuberay.reasons import pod_name, reasons
from kuberay.spec import Spec
from kuberay.state import State, is_ready, read_state

_POLL_S = 2.0
Report = Callable[[str], None]


def until_ready(api: Api, spec: Spec, report: Report, timeout_s: float) -> State:
    """Wait for head, hosts and staged weights; `report` gets what is waited for, and every pod that is lost.

    Raises:
        OperationError: not ready in time, with every reason; or KubeRay refuses the spec, at once.
        ApiError: the API server refuses to be asked.
    """
    deadline = time.monotonic() + timeout_s
    before = state = read_state(api, spec)
    while not (state.ready() and state.staged()):
        for line in lost(before, state):
            report(line)
        waiting = reasons(state)
        report(summary(state) + "".join(f"\n  {reason}" for reason in waiting))
        if hopeless := [str(reason) for reason in waiting if reason.hopeless]:
            raise OperationError("; ".join(hopeless))
        if time.monotonic() > deadline:
            raise OperationError(f"not ready after {timeout_s:.0f} s:" + "".join(f"\n  {reason}" for reason in waiting))
        time.sleep(_POLL_S)
        before, state = state, read_state(api, spec)
    return state


def until_gone(api: Api, spec: Spec, labels: Mapping[str, str], report: Report, timeout_s: float) -> None:
    """Wait until none of the pods with these labels is left. Raises `OperationError` with those that are, at the deadline."""
    deadline = time.monotonic() + timeout_s
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    while pods := api.objects("Pod", spec.namespace, selector):
        left = ", ".join(sorted(pod["metadata"]["name"] for pod in pods))
        report(f"{len(pods)} pods are ending")
        if time.monotonic() > deadline:
            raise OperationError(f"after {timeout_s:.0f} s there is still {left}")
        time.sleep(_POLL_S)


def summary(state: State) -> str:
    """One line, for example `head ready, 3 of 4 hosts ready`."""
    head = "head ready" if state.head and is_ready(state.head) else "head not ready"
    return f"{head}, {sum(map(is_ready, state.hosts))} of {state.wanted_hosts} hosts ready"


def lost(before: State, now: State) -> list[str]:
    """Messages about pods that are gone: a slice whose host fails is replaced as a whole."""
    living = {pod["metadata"]["uid"] for pod in now.pods}
    gone = [pod for pod in before.pods if pod["metadata"]["uid"] not in living]
    return [f"{pod_name(pod)} ({pod['metadata']['name']}) is gone; KubeRay replaces it" for pod in gone]
