// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/** Which disks of a host are free, from what XCP-ng's plugin lsblk.py lists. */

const used = device => Boolean(device.mountpoint) || (device.children ?? []).length > 0

/**
 * Whole disks that nothing is on top of. A partition is never offered: one that looks unused may be
 * the spare copy of dom0 that XCP-ng's upgrades need. The driver looks at the contents besides.
 *
 * @param {Array<object>} blockdevices all values are texts, as `lsblk --pairs` prints them
 * @returns {Array<{path: string, size: number}>} size in bytes
 */
function freeDisks(blockdevices) {
  return blockdevices
    .filter(
      device =>
        device.type === 'disk' && device.ro === '0' && Number(device.size) > 0 && !used(device)
    )
    .map(device => ({ path: `/dev/${device.kname}`, size: Number(device.size) }))
}

exports.freeDisks = freeDisks
