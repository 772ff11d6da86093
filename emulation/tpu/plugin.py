"""vLLM's plugin on an emulated host (`vllm.general_plugins`): installs what stands in for a TPU in a process of the engine.

An emulated host finds it by an entry point in its own stack (emulation/hosts/tpu_engine.py); nothing else does.
"""

from emulation.hosts.hosts import EMULATED
from emulation.tpu import attention, devices, hosts

_done = False


def register() -> None:
    """Install everything, once. Raises `UpstreamMovedError` where the engine is not the one that this was written for."""
    global _done
    if _done:
        return
    attention.replace_kernels()
    devices.describe(EMULATED)
    devices.copy_on_transfer()
    devices.without_tpu_options()
    hosts.join(EMULATED)
    hosts.connect_to_own_node()
    hosts.use_own_disk()
    _done = True
