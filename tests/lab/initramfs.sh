#!/bin/busybox sh
# SPDX-License-Identifier: LGPL-2.1-only
# The guest's first program: put the root together from its layers, then hand over to init.

# With /proc, this shell finds its commands in itself.
/bin/busybox mount -t proc proc /proc
for module in /modules/*; do
    case $module in
        # The kernel names disks in the order in which it happens to see them when it looks by
        # itself; so it is told where to look, later, disk by disk.
        *-scsi_mod.ko) insmod "$module" scan=manual ;;
        *) insmod "$module" ;;
    esac
done

mount -t devtmpfs devtmpfs /dev
mount -t ext4 -o ro /dev/vda /distribution
mount -t ext4 -o ro /dev/vdb /stage
mount -t tmpfs -o mode=755 tmpfs /over
mkdir /over/upper /over/work
mount -t overlay -o lowerdir=/stage:/distribution,upperdir=/over/upper,workdir=/over/work overlay /root

share() {  # share TAG OPTIONS: mount a folder of the host under /lab
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,cache=mmap,$2" "$1" "/root/lab/$1"
}

# An edit of the checkout is seen at once: so the options above cache as little as can be.
share checkout ro
share state rw
mount --move /dev /root/dev
mount --move /proc /root/proc
exec /bin/busybox switch_root /root /usr/sbin/init
