// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/** A pool of three hosts as XO knows it, and a XAPI that answers for it. */

const POOL = '5f2fd7a0-0000-4000-8000-000000000000'
const HOSTS = {
  'host-alpha': { name: 'xcp-alpha', power_state: 'Running' },
  'host-beta': { name: 'xcp-beta', power_state: 'Running' },
  'host-gamma': { name: 'xcp-gamma', power_state: 'Halted' },
}
const SR_ALPHA = 'a1b2c3d4-1111-4111-8111-111111111111'
const SR_BETA = 'b2c3d4e5-2222-4222-8222-222222222222'
const SR_EXT = 'c3d4e5f6-3333-4333-8333-333333333333'
const NEW_SR = 'd4e5f607-4444-4444-8444-444444444444'
const RECOVERY_KEY = 'K7Q2-9XMD-4HTV-P0RA-6WNB-3ZYC-8GFE'
const GIB = 2 ** 30

/** XO's objects. */
function objects() {
  const all = {
    [POOL]: { type: 'pool', name_label: 'Paris', master: 'host-alpha' },
    sm: { type: 'SM', SM_type: 'luksext' },
    'sm-ext': { type: 'SM', SM_type: 'ext' },
    [SR_ALPHA]: sr('local encrypted', 'luksext', 'pbd-alpha'),
    [SR_BETA]: sr('local encrypted', 'luksext', 'pbd-beta'),
    [SR_EXT]: sr('scratch', 'ext', 'pbd-ext'),
    'pbd-alpha': { type: 'PBD', host: 'host-alpha', SR: SR_ALPHA },
    'pbd-beta': { type: 'PBD', host: 'host-beta', SR: SR_BETA },
    'pbd-ext': { type: 'PBD', host: 'host-beta', SR: SR_EXT },
  }
  for (const [id, { name, power_state }] of Object.entries(HOSTS)) {
    all[id] = { type: 'host', name_label: name, power_state }
  }
  for (const [id, object] of Object.entries(all)) {
    Object.assign(object, { id, uuid: id, $pool: POOL, _xapiRef: `OpaqueRef:${id}` })
  }
  return all
}

const sr = (name, type, pbd) => ({
  type: 'SR',
  name_label: name,
  SR_type: type,
  shared: false,
  $PBDs: [pbd],
})

const hoursAgo = hours => new Date(Date.now() - hours * 3600e3).toISOString()

function disk(device, size, binding, recovery) {
  return {
    device,
    luks_uuid: `9e107d9d-0000-4000-8000-${device.slice(-3)}000000000`,
    luks_version: 2,
    cipher: 'aes-xts-plain64',
    key_bits: 512,
    size,
    open: `/dev/mapper/luks-${device.slice(-3)}`,
    slots: [
      {
        slot: 0,
        role: 'binding',
        pin: 'tpm2',
        policy: [{ pin: 'tpm2', pcr_ids: '7' }],
        ...binding,
      },
      ...recovery,
    ],
    header_backups: 3,
    header_backup: hoursAgo(40),
    header_backup_fresh: true,
    reencryption: { state: 'none' },
  }
}

/** What the plugin luksext answers to pool-status. */
function poolStatus() {
  const proved = { proof: { ok: true, code: 0, text: '', at: hoursAgo(2) } }
  const old = { proof: { ok: true, code: 0, text: '', at: hoursAgo(51) } }
  const safe = {
    slot: 1,
    role: 'recovery',
    name: 'safe',
    confirmed: true,
    created: hoursAgo(900),
    escrow: '',
  }
  const encrypted = {
    name: 'local encrypted',
    type: 'luksext',
    shared: false,
    attached: true,
    encrypted: true,
  }
  return {
    schema: 1,
    hosts: [
      {
        host_uuid: 'host-alpha',
        host: 'xcp-alpha',
        srs: [
          {
            ...encrypted,
            sr_uuid: SR_ALPHA,
            recovery: 'confirmed',
            alerts: [],
            disks: [
              disk('/dev/sdb', 1788 * GIB, proved, [safe]),
              disk('/dev/sdc', 1788 * GIB, proved, [safe]),
            ],
          },
        ],
      },
      {
        host_uuid: 'host-beta',
        host: 'xcp-beta',
        srs: [
          {
            ...encrypted,
            sr_uuid: SR_BETA,
            recovery: 'none',
            alerts: ['LUKS-W001'],
            disks: [disk('/dev/nvme0n1', 894 * GIB, old, [])],
          },
          {
            sr_uuid: SR_EXT,
            name: 'scratch',
            type: 'ext',
            shared: false,
            attached: true,
            encrypted: false,
          },
        ],
      },
      {
        host_uuid: 'host-gamma',
        host: 'xcp-gamma',
        error: 'It is down, or its XAPI is: start it, or run xe-toolstack-restart on it.',
        code: 'HOST_OFFLINE',
      },
    ],
  }
}

const BLOCKDEVICES = [
  {
    ...device('sda', 240 * GIB),
    children: [
      { ...device('sda1', 18 * GIB, 'part'), mountpoint: '/' },
      device('sda2', 18 * GIB, 'part'),
    ],
  },
  device('sdb', 1788 * GIB),
  device('sdc', 1788 * GIB),
  { ...device('sdd', 894 * GIB), children: [device('XSLocalEXT-x', 893 * GIB, 'lvm')] },
  { ...device('sde', 894 * GIB), mountpoint: '/mnt/usb' },
  { ...device('sr0', 2 * GIB, 'rom') },
  { ...device('sdf', 894 * GIB), ro: '1' },
]

function device(kname, size, type = 'disk') {
  return { name: kname, kname, pkname: '', size: String(size), type, ro: '0', mountpoint: '' }
}

/**
 * A XAPI; `failing` makes a function of the plugin fail: {unlock: ['CODE', …]}; `answers` has others
 * than those below.
 */
class SampleXapi {
  answers = {}
  calls = []
  failing = {}

  async call(method, ...args) {
    this.calls.push([method, ...args])
    if (method === 'SR.get_uuid') {
      return NEW_SR
    }
    const [, plugin, fn, given] = args
    if (fn in this.failing) {
      throw xapiError(this.failing[fn], { method, params: args })
    }
    return JSON.stringify(
      plugin === 'lsblk.py' ? { blockdevices: BLOCKDEVICES } : this.#answer(fn, given)
    )
  }

  async callAsync(method, ...args) {
    this.calls.push([`Async.${method}`, ...args])
  }

  async SR_create(options) {
    this.calls.push(['SR_create', options])
    if ('SR.create' in this.failing) {
      throw xapiError(this.failing['SR.create'], { method: 'SR.create', params: [options] })
    }
    return 'OpaqueRef:new'
  }

  #answer(fn, given) {
    const answers = {
      'pool-status': poolStatus,
      doctor: () => ({ ok: true, findings: [] }),
      prove: () => ({ ok: true, proofs: [] }),
      'recovery-add': () => ({ recovery_key: RECOVERY_KEY, name: given.name ?? 'key-1' }),
      'recovery-rotate': () => ({ recovery_key: RECOVERY_KEY, name: given['new-name'] ?? 'key-2' }),
      'recovery-confirm': () => ({ name: 'safe' }),
      'recovery-test': () => ({ name: 'safe' }),
      ...this.answers,
    }
    return answers[fn]?.() ?? { ok: true }
  }
}

/** As npm's xen-api throws it: with all that was sent. */
function xapiError([code, ...params], call) {
  return Object.assign(new Error(`${code}(${params.join(', ')})`), {
    name: 'XapiError',
    code,
    params,
    call,
  })
}

module.exports = {
  GIB,
  NEW_SR,
  POOL,
  RECOVERY_KEY,
  SR_ALPHA,
  SR_BETA,
  SR_EXT,
  SampleXapi,
  objects,
  poolStatus,
}
