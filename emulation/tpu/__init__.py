"""TPU devices for a machine without any: vLLM TPU, the engine of the slice, computes on JAX's CPU devices of emulated hosts.

`plugin` is what vLLM loads there; each other module stands in for one thing that libtpu or a chip would do.
"""
