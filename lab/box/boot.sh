#!/bin/sh
# Makes the world of one box and becomes its PID 1. Runs in fresh mount, pid, uts, ipc and network namespaces.
# usage: boot.sh LOWER UPPER ROOT HOSTNAME IP/PREFIX GATEWAY GATE INIT TMP
#   LOWER  lower layers of the overlay, joined by ':'      UPPER  folder on a tmpfs, with up/ and work/
#   GATE   path of the gateway's network namespace   TMP  noexec: as on hardened hosts
set -eu
lower=$1 upper=$2 root=$3 name=$4 address=$5 gateway=$6 gate=$7 init=$8 tmp=$9
PATH=$PATH:/usr/sbin:/sbin

hostname "$name"
# The far end of the link is the gateway's, which answers for what the emulated network allows and drops the rest.
ip -batch - <<EOF
link set lo up
link add eth0 type veth peer name gate0 netns $gate
address add $address dev eth0
link set eth0 up
route add default via $gateway
EOF

mount -t overlay -o "lowerdir=$lower,upperdir=$upper/up,workdir=$upper/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755,size=64m tmpfs "$root/run"
[ "$tmp" != noexec ] || mount -t tmpfs -o mode=1777,size=64m,nosuid,nodev,noexec tmpfs "$root/tmp"
mount -t tmpfs -o mode=755,size=1m tmpfs "$root/dev"
for device in null:3 zero:5 full:7 random:8 urandom:9 tty:; do
    minor=${device#*:}
    if [ -n "$minor" ]; then mknod -m 666 "$root/dev/${device%:*}" c 1 "$minor"; else mknod -m 666 "$root/dev/tty" c 5 0; fi
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/run/lock" "$root/run/sshd"
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"

mkdir -p "$root/run/lab/old"
cd "$root"
pivot_root . run/lab/old
umount -l run/lab/old
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LAB_TIME_SCALE="${LAB_TIME_SCALE:-16}" \
    /opt/lab/bin/labpy /opt/lab/lib/init/init.py "$init" </dev/null >/dev/null
