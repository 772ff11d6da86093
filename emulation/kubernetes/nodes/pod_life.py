"""One pod's life on its node, in a kubelet's order: volumes, address, init containers, containers, probes, restarts, the end.

Times are shorter than a kubelet's: what it would repeat after 10 s or more is repeated after one.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx

from emulation.kubernetes.nodes.api import Api, Json
from emulation.kubernetes.nodes.node_files import PodFiles
from emulation.kubernetes.nodes.orders import Orders
from emulation.kubernetes.nodes.pod_inputs import MissingInputError, check_volumes, environment_of
from emulation.kubernetes.nodes.pod_status import ContainerState, PodState, warning
from emulation.kubernetes.nodes.runtime import Container, Runtime

_POLL_S = 0.1
_RETRY_S = 1.0


class _GoneError(Exception):
    """The pod does not exist any more, or the test is over."""


class _DeletionError(Exception):
    """The pod is to be deleted."""


class PodLife(threading.Thread):
    """Emulates one pod from when it is bound to a node until it is gone."""

    def __init__(self, api: Api, runtime: Runtime, orders: Orders, files: PodFiles, pod: Json, ip: str, node_ip: str) -> None:
        super().__init__(name=f"pod {pod['metadata']['name']}", daemon=True)
        self.pod = pod
        self.gone = threading.Event()
        self._api, self._runtime, self._orders, self._files = api, runtime, orders, files
        self._addresses = {"podIP": ip, "hostIP": node_ip}
        spec = pod["spec"]
        waiting = {"waiting": {"reason": "PodInitializing" if spec.get("initContainers") else "ContainerCreating"}}
        inits, mains = (
            [ContainerState(c["name"], c["image"], waiting) for c in spec.get(key, [])]
            for key in ("initContainers", "containers")
        )
        self._state = PodState(spec.get("restartPolicy", "Always"), inits, mains, node_ip)
        self._running: dict[str, Container] = {}
        self._reasons: dict[str, str] = {}

    @property
    def ip(self) -> str:
        return self._addresses["podIP"]

    @property
    def path(self) -> str:
        meta = self.pod["metadata"]
        return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"

    def fail(self, exit_code: int, reason: str) -> None:
        """Let the pod's first container end by itself."""
        name = self.pod["spec"]["containers"][0]["name"]
        self._reasons[name] = reason
        self._running[name].fail(exit_code)

    def run(self) -> None:
        try:
            try:
                self._live()
            except _DeletionError:
                self._end()
        except _GoneError:
            pass
        finally:
            self._runtime.close(self.pod)
            self._files.remove()

    def _live(self) -> None:
        spec = self.pod["spec"]
        self._publish()
        self._until_there(lambda: check_volumes(self._api, self.pod), self._warn_of_mount)
        self._sleep(self._orders.delay_s(self.pod["metadata"]["name"]))
        while self._orders.holds(self.pod["metadata"]["name"]):
            self._sleep(_POLL_S)
        self._state.ip = self._addresses["podIP"]
        self._runtime.open(self.pod, self._state.ip)
        self._files.address(self._state.ip)
        for container, state in zip(spec.get("initContainers", []), self._state.inits, strict=True):
            self._run_to_success(container, state)
        for container, state in zip(spec["containers"], self._state.mains, strict=True):
            self._start(container, state)
        while True:
            self._sleep(_POLL_S)
            if self._look_after_all():
                self._publish()

    def _run_to_success(self, container: Json, state: ContainerState) -> None:
        self._start(container, state)
        while not state.succeeded:
            self._publish()
            self._sleep(_POLL_S)
            self._look_after(container, state, restart=self._state.restart_policy != "Never")

    def _look_after_all(self) -> bool:
        """True if there is something new."""
        policy = self._state.restart_policy
        news = False
        for container, state in zip(self.pod["spec"]["containers"], self._state.mains, strict=True):
            restart = policy == "Always" or (policy == "OnFailure" and not state.succeeded)
            news |= self._look_after(container, state, restart=restart)
        return news

    def _look_after(self, container: Json, state: ContainerState, *, restart: bool) -> bool:
        before = dict(state.state), state.ready
        if state.is_running:
            running = self._running[container["name"]]
            code = running.exit_code()
            if code is None:
                state.ready = running.is_ready() and not self._orders.keeps_unready(self.pod["metadata"]["name"])
            else:
                reason = self._reasons.pop(container["name"], "Completed" if code == 0 else "Error")
                state.terminate(code, reason, self._files.termination_message(container, code))
                self._files.ended(container["name"])
        elif state.exit_code is not None and restart:
            self._back_off(container, state)
        return before != (state.state, state.ready)

    def _back_off(self, container: Json, state: ContainerState) -> None:
        meta = self.pod["metadata"]
        state.restart()
        place = f"pod={meta['name']}_{meta['namespace']}({meta['uid']})"
        state.wait("CrashLoopBackOff", f"back-off 10s restarting failed container={container['name']} {place}")
        self._publish()
        self._sleep(_RETRY_S)
        self._start(container, state)

    def _start(self, container: Json, state: ContainerState) -> None:
        self._pull(container["image"], state)
        environment: dict[str, str] = {}

        def resolve() -> None:
            environment.update(environment_of(self._api, self.pod, container, self._addresses))

        def explain(message: str) -> None:
            state.wait("CreateContainerConfigError", message)
            self._warn("Failed", f"Error: {message}", container["name"])

        self._until_there(resolve, explain)
        log = self._files.begin(container["name"])
        started = self._running[container["name"]] = self._runtime.start(self.pod, container, environment, log)
        if words := self._orders.last_words.get(state.name):
            log(words)
            started.fail(1)
        state.run()
        self._publish()

    def _pull(self, image: str, state: ContainerState) -> None:
        where = f'failed to resolve reference "{image}": {image}: not found'
        cause = f'rpc error: code = NotFound desc = failed to pull and unpack image "{image}": {where}'
        while not self._orders.can_pull(image):
            state.wait("ErrImagePull", cause)
            self._warn("Failed", f'Failed to pull image "{image}": {cause}', state.name)
            self._publish()
            self._sleep(_RETRY_S)
            state.wait("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {cause}')
            self._publish()
            self._sleep(_RETRY_S)

    def _until_there(self, check: Callable[[], None], explain: Callable[[str], None]) -> None:
        while True:
            try:
                return check()
            except httpx.HTTPError:  # the API server restarts
                self._sleep(_POLL_S)
            except MissingInputError as missing:
                explain(str(missing))
                self._publish()
                self._sleep(_RETRY_S)

    def _warn_of_mount(self, message: str) -> None:
        self._warn("FailedMount", message, None)

    def _end(self) -> None:
        """What a kubelet does with a pod that is deleted: containers first, then the object."""
        grace_s = float(self.pod["metadata"].get("deletionGracePeriodSeconds", 0))
        for state in self._state.mains:
            if (running := self._running.get(state.name)) and state.is_running:
                running.stop(grace_s)
                state.terminate(running.exit_code() or 0, "Completed")
        self._publish()
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.pod["metadata"]["uid"]}}
        self._insist(lambda: self._api.delete(self.path, **options))

    def _publish(self) -> None:
        change = {"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": self._state.status(self.pod.get("status", {}))}
        self._insist(lambda: self._api.merge(f"{self.path}/status", change))

    def _warn(self, reason: str, message: str, container: str | None) -> None:
        events = f"/api/v1/namespaces/{self.pod['metadata']['namespace']}/events"
        self._check_is_wanted()
        with suppress(httpx.HTTPError):  # as a kubelet does: none in a namespace that is being deleted, for example
            self._api.create(events, warning(self.pod, reason, message, container))

    def _insist(self, ask: Callable[[], Any]) -> Any:
        """Repeat while the API server cannot be reached."""
        while True:
            self._check_is_wanted()
            try:
                return ask()
            except httpx.HTTPStatusError as error:
                if error.response.status_code in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT, httpx.codes.FORBIDDEN):
                    raise _GoneError from None  # also a namespace that is being deleted, or a pod of the same name
                time.sleep(_RETRY_S)
            except httpx.HTTPError:
                time.sleep(_POLL_S)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            self._check_is_wanted()
            if "deletionTimestamp" in self.pod["metadata"]:
                raise _DeletionError
            left = end - time.monotonic()
            if left <= 0:
                return
            self.gone.wait(min(left, _POLL_S))

    def _check_is_wanted(self) -> None:
        if self.gone.is_set() or self._orders.stopping.is_set():
            raise _GoneError
