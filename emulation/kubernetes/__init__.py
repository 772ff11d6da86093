"""A real Kubernetes control plane with the real KubeRay operator on loopback: built from Go modules, started, stopped.

It is here, and not in kuberay/, because it is what a RayCluster runs in where there is no GKE, as `local/` is where there is no
cluster at all; kuberay/ only ever talks to an API server, whichever it is.
"""
