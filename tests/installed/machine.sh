#!/bin/sh
# A machine of its own for one command: systemd as process 1, in namespaces. It sees the files of this machine, but
# keeps what it changes in memory; it has processes, a loopback network and control groups of its own. All of that is
# gone when the command ends.
#
#   machine.sh COMMAND...
#
# The command runs as root, in this directory. Exit codes: those of the command, or 77 where this system allows no
# namespaces. Files of the project are the same on both sides.
set -eu

here=$(cd "$(dirname "$0")/../.." && pwd -P)

fail() {
    echo "machine.sh: $*" >&2
    exit 1
}

# Process 1 of the machine, until it becomes systemd.
if [ "${1-}" = --inside ]; then
    memory=$2
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs "$memory"
    root=$memory/root
    mkdir "$memory/changes" "$memory/scratch" "$root"
    mount -t overlay -o "lowerdir=/,upperdir=$memory/changes,workdir=$memory/scratch" overlay "$root"
    mount -t proc proc "$root/proc"
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup" 2>/dev/null || true
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mkdir -p "$root$here"  # which may be below /tmp
    mount --rbind "$here" "$root$here"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for device in null zero full random urandom tty; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root/dev/pts" "$root/dev/shm" "$root/run/sshd"
    mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    # Only what is asked for starts: nothing that this system starts, mounts or sets.
    rm -rf "$root"/etc/fstab "$root"/etc/systemd/system "$root"/lib/systemd/system-generators "$root"/lib/systemd/system/*.wants
    mkdir "$root/etc/systemd/system"
    printf '[Unit]\nRequires=systemd-journald.service dbus.socket\n' >"$root/etc/systemd/system/machine.target"
    # Not chroot: the kernel allows no user namespaces below one, which PrivateUsers= of a unit needs.
    mkdir "$root/run/outside"
    cd "$root"
    pivot_root . run/outside
    umount --lazy /run/outside
    rmdir /run/outside
    # systemd hands credentials to a service by a mount that has to spread; in containers it leaves that to who made them.
    mount --make-rshared /
    exec env -i container=machine PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system --unit=machine.target --show-status=no --log-target=journal
fi

[ "$(id -u)" -eq 0 ] || fail "needs root"
[ -x /lib/systemd/systemd ] || fail "there is no /lib/systemd/systemd here: install the package systemd"
if ! said=$(unshare --fork --pid --mount --net --uts --ipc --cgroup mount -t tmpfs tmpfs /tmp 2>&1); then
    # A machine of the project's own continuous integration has to allow them.
    [ -z "${CI-}" ] || fail "this system allows no namespaces, and CI is set: $said"
    echo "machine.sh: NO SYSTEMD WAS RUN: this system allows no namespaces: $said" >&2
    exit 77
fi

memory=$(mktemp -d)
groups=/sys/fs/cgroup
[ ! -d $groups/unified ] || groups=$groups/unified
group=$groups/machine-$$
keeper=
finish() {
    [ -z "$keeper" ] || kill -KILL "$keeper" 2>/dev/null || true
    [ -z "$keeper" ] || wait "$keeper" 2>/dev/null || true
    # Groups can be removed once their processes have ended.
    for _ in $(seq 50); do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
        [ -d "$group" ] || break
        sleep 0.1
    done
    rmdir "$memory" || true
}
trap finish EXIT
trap 'exit 130' INT TERM

mkdir "$group"
sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' - "$group" \
    unshare --fork --kill-child --pid --mount --net --uts --ipc --cgroup sh "$0" --inside "$memory" &
keeper=$!
enter() {
    first=$(cat "/proc/$keeper/task/$keeper/children")
    # shellcheck disable=SC2086  # one number
    nsenter --target ${first:-none} --all sh -c 'cd "$1" && shift && exec "$@"' - "$here" "$@"
}
for _ in $(seq 300); do
    kill -0 "$keeper" 2>/dev/null || fail "the machine ended before systemd ran; see above"
    state=$(enter systemctl is-active machine.target 2>/dev/null || true)
    [ "$state" != active ] || break
    sleep 0.1
done
[ "$state" = active ] || fail "systemd does not start within 30 seconds"
code=0
enter env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@" || code=$?
exit "$code"
