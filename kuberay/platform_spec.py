"""The parts of the spec that a platform team decides: the address that people reach, and what it adds to every object."""

import re
from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator


class Strict(BaseModel):
    """A part of the spec: no key that it does not know, and no change of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def matching(pattern: "re.Pattern[str]", what: str) -> AfterValidator:
    """Validate a text by a pattern; `what` is wrong with others."""

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(what)
        return value

    return AfterValidator(check)


_HOST = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+")
Host = Annotated[str, matching(_HOST, "is no host name such as llm.example.com")]


def _range(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError as error:
        raise ValueError(f"is no range such as 10.129.0.0/23: {error}") from None


class Expose(Strict):
    """An address that people reach, by GKE's Gateway. Without it the API is reached from the namespace, and by `forward`."""

    host: Host  # of the API, such as llm.example.com; its DNS is yours to set
    iap: bool = False  # also the chat, behind Google's sign-in (IAP)
    dashboard: Host | None = None  # another host, for Ray's dashboard behind IAP; none: not exposed
    gateway_class: str = "gke-l7-global-external-managed"  # or gke-l7-rilb, for an address of the VPC alone, and so on
    certificate_map: str | None = None  # of Certificate Manager; none: one that `gke.py up` makes
    proxy_ranges: tuple[Annotated[str, AfterValidator(_range)], ...] = ()
    """The proxy-only subnet, for a regional or an internal class."""

    @property
    def hosts(self) -> dict[str, str]:
        """The host of each listener."""
        return {"api": self.host, **({"dashboard": self.dashboard} if self.dashboard else {})}

    @model_validator(mode="after")
    def _dashboard_is_apart(self) -> "Expose":
        if self.dashboard == self.host:
            raise ValueError(f"`dashboard` is {self.host}, as `host` is: it needs a host of its own")
        if self.dashboard and not self.iap:
            raise ValueError("Ray's dashboard runs any code: `dashboard` is exposed with `iap: true` alone")
        return self


class Kueue(Strict):
    """The queue that decides when the hosts may come; `topology` is the level at which the hosts of a slice stay."""

    queue: str  # name of a LocalQueue in the namespace
    topology: str | None = None  # such as cloud.google.com/gke-nodepool, with topology-aware scheduling


class Overlay(Strict):
    """What a platform team adds to objects; what this project itself sets stays."""

    labels: dict[str, str] = {}  # of every object and pod, for example for costs
    annotations: dict[str, str] = {}  # of every object and pod
    tolerations: tuple[dict[str, Any], ...] = ()  # of every pod
    priority_class: str | None = None  # of every pod
    env: dict[str, str] = {}  # of every container
    pull_secrets: tuple[str, ...] = ()  # of every pod
    patches: dict[str, dict[str, Any]] = {}  # JSON merge patches, by the object such as NetworkPolicy/gemma
    kueue: Kueue | None = None  # the queue, with Kueue
