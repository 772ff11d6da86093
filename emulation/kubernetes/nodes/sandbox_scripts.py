"""The shell of sandbox.py: it runs as root of a user namespace, with rights over its own namespaces and nothing else."""

# The network that all pods are on, until standard input is closed. $POD_FILES: hosts and resolv.conf.
NETWORK = """
mount -t tmpfs -o size=1T none /run  # a limit, not a need: /dev/shm is there, and Ray wants room for what it might once keep
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

# NAME HOST PROJECT FILES VOLUMES COMMAND... with a line SOURCE PATH for each mount.
# The root is this machine's, put together anew so that paths can be added to it.
IN_CONTAINER = r"""
exec nsenter "--net=/run/netns/$1" -- unshare --mount --uts --ipc --pid --fork --kill-child=KILL --mount-proc \
  bash -euc '
    pod=/run/pods/$1 root=/run/pods/$1/root
    hostname "$2"
    mkdir -p "$root"
    mount -t tmpfs none "$root"
    for entry in /*; do
      if [ -L "$entry" ]; then
        cp -P "$entry" "$root$entry"
      elif [ -d "$entry" ]; then
        mkdir "$root$entry"
        mount --rbind "$entry" "$root$entry"
      fi
    done
    mount --bind "$4/hosts" "$root/etc/hosts"
    mount --bind "$4/resolv.conf" "$root/etc/resolv.conf"
    mount --bind "$pod/shm" "$root/dev/shm"
    mount --bind "$pod/tmp" "$root/tmp"
    while read -r volume path; do
      [ "$volume" ] || continue
      mkdir -p "$volume" "$root$path"
      mount --bind "$volume" "$root$path"
    done <<< "$5"
    for path in "$3" "$4"; do  # of this machine, and the pod has a /tmp of its own
      case "$path" in /tmp/*)
        mkdir -p "$root$path"
        mount --rbind "$path" "$root$path" ;;
      esac
    done
    shift 5
    exec chroot "$root" bash -euc "cd /tmp; exec \"\$@\"" container "$@"' container "$@"
"""
