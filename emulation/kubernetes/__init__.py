"""A real Kubernetes control plane with the real KubeRay operator on loopback: built from Go modules, started, stopped.

It stands in for GKE, as `emulation/hosts` stands in for a slice's hosts; kuberay/ only talks to an API server, whichever it is.
"""
