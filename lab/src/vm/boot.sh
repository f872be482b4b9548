#!/bin/busybox sh
# First process of the machine, out of its initial RAM file system: makes a root that looks like the
# host's, with Debian packages and the kernel's modules beside it, and writable without changing any.
/bin/busybox --install -s /bin
export PATH=/bin
fail() {
    echo "<1>lab-vm: $*" >/dev/kmsg
    poweroff -f
}
mkdir -p /proc /sys /dev /host /packages /memory /root
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do
    insmod "/modules/$module" || fail "cannot load $module"
done </modules/order

share() {
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2" || fail "cannot mount $1"
}
share host /host ro,cache=loose
share packages /packages ro,cache=loose
mount -t tmpfs -o mode=755 memory /memory
mkdir /memory/upper /memory/work
mount -t overlay -o "lowerdir=$(cat /layers):/host,upperdir=/memory/upper,workdir=/memory/work" \
    root /root || fail "cannot lay the packages over the host's files"

mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
mount -t tmpfs -o mode=755 run /root/run
mkdir -p /root/dev/pts /root/dev/shm /root/run/lab-vm /root/run/lock
mount -t devpts pts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
n=0
while read -r folder; do
    share "write$n" "/root$folder" cache=none
    n=$((n + 1))
done </writable
cp /bin/busybox /guest.sh /command.sh /root/run/lab-vm/
exec switch_root /root /run/lab-vm/busybox sh /run/lab-vm/guest.sh
