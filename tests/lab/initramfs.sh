#!/bin/busybox sh
# SPDX-License-Identifier: LGPL-2.1-only
# The guest's first program: put the root together from the host's folders, then hand over to init.
export PATH=/bin
/bin/busybox --install -s /bin

for module in /modules/*; do
    insmod "$module"
done

share() {  # share TAG FOLDER OPTIONS: mount a folder of the host
    mkdir -p "$2"
    mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,$3" "$1" "$2"
}

mount -t devtmpfs devtmpfs /dev
share root /distribution ro,cache=loose
share stage /stage ro,cache=loose
mkdir /over
mount -t tmpfs -o mode=755 tmpfs /over
mkdir /over/upper /over/work
mount -t overlay -o lowerdir=/stage:/distribution,upperdir=/over/upper,workdir=/over/work overlay /root
# The developer sees an edit of the checkout at once, so nothing of it is cached.
share checkout /root/lab/checkout ro,cache=mmap
share state /root/lab/state cache=mmap
mount --move /dev /root/dev
exec switch_root /root /usr/sbin/init
