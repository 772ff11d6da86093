"""The shell of sandbox.py: it runs as root of a user namespace, with rights over its own namespaces and nothing else."""

# The network that all pods are on, until standard input is closed. $POD_FILES: hosts and resolv.conf.
NETWORK = """
mount -t tmpfs none /run
mkdir -p /run/netns /run/pods
ip link set lo up
ip link add cni0 type bridge
ip addr add 10.64.0.1/16 dev cni0
ip link set cni0 up
echo ready
read -r _ || true
"""

# NAME INTERFACE ADDRESS
ADD_POD = """
ip netns add "$1"
ip link add "$2" type veth peer name eth0 netns "$1"
ip link set "$2" master cni0 up
ip -n "$1" addr add "$3/16" dev eth0
ip -n "$1" link set eth0 up
ip -n "$1" link set lo up
ip -n "$1" route add default via 10.64.0.1
mkdir -p "/run/pods/$1/shm" "/run/pods/$1/tmp"
"""

# NAME
REMOVE_POD = """
for process in $(ip netns pids "$1"); do kill -9 "$process" || true; done
ip netns delete "$1"
rm -rf "/run/pods/$1"
"""

# NAME HOST PROJECT FILES COMMAND...
IN_CONTAINER = """
exec nsenter "--net=/run/netns/$1" -- unshare --mount --uts --ipc --pid --fork --kill-child=KILL --mount-proc \
  bash -euc '
    pod=$1 project=$3
    hostname "$2"
    mount --bind "$4/hosts" /etc/hosts
    mount --bind "$4/resolv.conf" /etc/resolv.conf
    mount --bind "/run/pods/$pod/shm" /dev/shm
    mkdir -p /run/project
    mount --rbind "$project" /run/project
    mount --bind "/run/pods/$pod/tmp" /tmp
    [ -d "$project" ] || { mkdir -p "$project" && mount --rbind /run/project "$project"; }
    cd /tmp
    shift 4
    exec "$@"' container "$@"
"""
