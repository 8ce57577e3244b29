#!/bin/sh
# Builds the base image of the boxes. Runs in a mount namespace of its own.
# usage: build-base.sh WORK DEST SUITE MIRROR INCLUDE     (environment: LABPY, the text of the launcher)
set -eu
work=$1 dest=$2 suite=$3 mirror=$4 include=$5
root=$work/root

mount -t tmpfs -o size=1500m,mode=755 haltuun-lab-base "$work"
debootstrap --variant=minbase --include="$include" "$suite" "$root" "$mirror"

# What python3 needs beyond the image, fetched by apt but never installed: dpkg must not know of it.
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
chroot "$root" apt-get install -y --download-only --no-install-recommends python3
mkdir -p "$root/opt/lab/py" "$root/opt/lab/bin" "$root/opt/lab/lib"
for deb in "$root"/var/cache/apt/archives/*python3*.deb "$root"/var/cache/apt/archives/libexpat*.deb; do
    # debootstrap leaves the packages that it installed itself in the same folder
    name=$(dpkg-deb -f "$deb" Package)
    chroot "$root" dpkg-query -s "$name" 2>/dev/null | grep -q '^Status:.* installed$' && continue
    dpkg-deb -x "$deb" "$root/opt/lab/py"
done
rm -rf "$root/opt/lab/py/usr/share"
printf '%s' "$LABPY" >"$root/opt/lab/bin/labpy"
chmod 755 "$root/opt/lab/bin/labpy"
multiarch=$(dpkg --print-architecture | sed 's/amd64/x86_64/; s/arm64/aarch64/')-linux-gnu
printf '%s\n' "/opt/lab/py/lib/$multiarch" "/opt/lab/py/usr/lib/$multiarch" >"$root/etc/ld.so.conf.d/zz-lab.conf"
chroot "$root" ldconfig
chroot "$root" /opt/lab/bin/labpy -m compileall -q -j 0 /opt/lab/py/usr/lib
umount "$root/proc"

# What an image of a cloud vendor does not carry, and what each box must make for itself.
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* \
    "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/var/log/*.log "$root"/var/log/apt/*
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/resolv.conf" "$root/etc/machine-id" "$root/etc/hostname" \
    "$root/etc/apt/sources.list"
mkdir -p "$root/run/sshd" "$root/etc/systemd/system" "$root/lib/systemd/system" "$root/etc/init"

cp -a "$root" "$dest"
