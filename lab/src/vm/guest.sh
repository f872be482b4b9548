# First process of the machine on its real root: runs the command, tells how it ended, switches off.
bb=/run/lab-vm/busybox
for port in /sys/class/virtio-ports/*; do
    [ "$($bb cat "$port/name")" = output ] && output=/dev/${port##*/}
done
$bb ln -sfn /proc/self/fd /dev/fd
$bb ln -sf /proc/self/fd/1 /dev/stdout
$bb ln -sf /proc/self/fd/2 /dev/stderr
$bb mkdir -p /dev/net
$bb mknod -m 666 /dev/net/tun c 10 200
$bb hostname vm
$bb ip link set lo up
# The end of process 1 of a PID namespace is the end of all that the command left behind, and so of
# what `cat` waits for. The pipe is there because a port can be opened but once.
$bb unshare --fork --pid --mount-proc /bin/sh -c \
    '. /run/lab-vm/command.sh; echo $? >/run/lab-vm/status' </dev/null 2>&1 | $bb cat >"$output"
read -r status </run/lab-vm/status
echo "<1>lab-vm: status ${status:-unknown}" >/dev/kmsg
$bb poweroff -f
