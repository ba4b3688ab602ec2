// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/** What of an SR needs attention: its alerts, and proofs that are missing or old. */

/** Codes of docs/alerts.md with what to call them. */
const ALERTS = {
  'LUKS-W001': 'no recovery key',
  'LUKS-W002': 'recovery key unconfirmed',
  'LUKS-W003': 'binding stale',
  'LUKS-W004': 'binding breaks at next boot',
  'LUKS-W005': 'no fresh header backup',
  'LUKS-W006': 'bindings suspended',
  'LUKS-W007': 'unknown keyslot',
  'LUKS-W008': 'disks differ in their keys',
  'LUKS-W009': 're-encryption unfinished',
  'LUKS-W011': 'binding cannot be tried',
  'LUKS-W012': 'disk missing or unreadable',
}

const UNKNOWN = 'an alert that this version of the plugin does not know'

const HOUR = 3600e3

/**
 * @param {object} sr an SR of the answer of pool-status
 * @param {number} staleHours hours after which a proof is old
 * @param {number} now milliseconds since 1970
 * @returns {Array<{code: string, text: string}>} what is wrong; code is empty where no alert says so
 */
function attentionOf(sr, staleHours, now) {
  const found = (sr.alerts ?? []).map(code => ({ code, text: ALERTS[code] ?? UNKNOWN }))
  for (const disk of sr.disks ?? []) {
    for (const slot of disk.slots ?? []) {
      // A locked SR proves nothing, and says so by being disconnected.
      if (slot.role === 'binding' && sr.attached) {
        found.push(...oldProof(disk.device, slot, staleHours, now))
      }
    }
  }
  return found
}

function oldProof(device, { slot, proof }, staleHours, now) {
  const binding = `keyslot ${slot} of ${device}`
  if (!proof) {
    return [{ code: '', text: `${binding} was never proved` }]
  }
  const hours = Math.floor((now - Date.parse(proof.at)) / HOUR)
  return hours < staleHours
    ? []
    : [{ code: '', text: `the last proof of ${binding} is ${hours} hours old` }]
}

exports.ALERTS = ALERTS
exports.attentionOf = attentionOf
