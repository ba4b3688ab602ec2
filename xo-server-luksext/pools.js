// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/** The pools that XO knows, as places for encrypted SRs. All that speaks with XAPI is here. */

const { attentionOf } = require('./attention')
const { freeDisks } = require('./devices')
const { failureOf } = require('./failure')
const { argumentsOf, dashed } = require('./verbs')

const SR_TYPE = 'luksext'

/** Options of device-config (docs/admin-guide.md) by their names in XO. */
const OPTIONS = [
  'pin',
  'pinConfig',
  'luksVersion',
  'cipher',
  'keySize',
  'discard',
  'workqueues',
  'force',
]

class Pools {
  #staleHours
  #xo

  /** @param staleHours a function: the hours after which a proof is old */
  constructor(xo, staleHours) {
    this.#xo = xo
    this.#staleHours = staleHours
  }

  /** All running hosts: can an encrypted SR be made there? */
  hosts() {
    return this.#all('host')
      .filter(host => host.power_state === 'Running')
      .map(host => ({
        id: host.id,
        name: host.name_label,
        pool: this.#poolName(host),
        ready: this.#isReady(host),
      }))
      .sort((a, b) => a.name.localeCompare(b.name))
  }

  /** The free disks of a host: path and size in bytes. */
  async devices(hostId) {
    return freeDisks(
      (await this.#callPlugin(this.#host(hostId), 'lsblk.py', 'list_block_devices', {}))
        .blockdevices
    )
  }

  /** Makes an encrypted SR. The devices are formatted. Returns its UUID, which is its id in XO. */
  async create({ host: hostId, nameLabel, nameDescription = '', devices, ...given }) {
    const host = this.#host(hostId)
    const options = Object.fromEntries(OPTIONS.map(name => [name, given[name]]))
    const xapi = this.#xo.getXapi(host)
    return reading(async () => {
      const sr = await xapi.SR_create({
        device_config: { device: devices.join(','), ...argumentsOf(options) },
        host: host._xapiRef,
        name_description: nameDescription,
        name_label: nameLabel,
        shared: false,
        type: SR_TYPE,
      })
      return xapi.call('SR.get_uuid', sr)
    })
  }

  /**
   * All SRs of all hosts of the pools that have the driver, each with what needs attention.
   * registered: whether XAPI knows the SR type; a host without the package takes it from its pool.
   */
  async status() {
    const pools = this.#all('pool').filter(pool => this.#isReady(pool) || this.#hasSr(pool))
    return Promise.all(
      pools.map(async pool => ({
        id: pool.id,
        name: pool.name_label,
        registered: this.#isReady(pool),
        ...(await this.#told(pool)),
      }))
    )
  }

  async #told(pool) {
    try {
      const { hosts } = await this.#callPlugin(this.#host(pool.master), SR_TYPE, 'pool-status', {})
      return { hosts: hosts.map(host => ({ ...host, srs: host.srs?.map(sr => this.#judged(sr)) })) }
    } catch (error) {
      // One pool that cannot be asked must not hide the others.
      return { error: error.message }
    }
  }

  #judged(sr) {
    return sr.encrypted ? { ...sr, attention: attentionOf(sr, this.#staleHours(), Date.now()) } : sr
  }

  /** Runs a verb (verbs.js) on the host that has the disks of the SR; returns what it tells. */
  async run(verb, srId, given) {
    const pbd = this.#pbdOf(srId)
    const told = await this.#callPlugin(this.#host(pbd.host), SR_TYPE, dashed(verb), {
      ...argumentsOf(given),
      'sr-uuid': srId,
    })
    if (verb === 'unlock') {
      // The disks are open, so the plug asks nobody for a key.
      await reading(() => this.#xo.getXapi(pbd).callAsync('PBD.plug', pbd._xapiRef))
    }
    return told
  }

  /** Throws all that doctor finds on that host, or that the disk, if given, is not free. */
  async check(hostId, device) {
    const host = this.#host(hostId)
    const { findings } = await this.#callPlugin(host, SR_TYPE, 'doctor', {})
    if (findings.length > 0) {
      throw new Error(findings.map(({ code, text, next }) => `${code}: ${text} ${next}`).join('\n'))
    }
    if (device && !(await this.devices(hostId)).some(({ path }) => path === device)) {
      throw new Error(`${device} is no free disk of ${host.name_label}.`)
    }
  }

  #pbdOf(srId) {
    const sr = this.#xo.getObject(srId, 'SR')
    if (sr.SR_type !== SR_TYPE) {
      throw new Error(`${sr.name_label} is not encrypted: its type is ${sr.SR_type}.`)
    }
    if (sr.$PBDs.length !== 1) {
      throw new Error(`${sr.name_label} is on ${sr.$PBDs.length} hosts; an encrypted SR is on one.`)
    }
    return this.#xo.getObject(sr.$PBDs[0], 'PBD')
  }

  #host(id) {
    return this.#xo.getObject(id, 'host')
  }

  #all(type) {
    return Object.values(this.#xo.getObjects({ filter: { type } }))
  }

  #isReady({ $pool }) {
    return this.#all('SM').some(sm => sm.$pool === $pool && sm.SM_type === SR_TYPE)
  }

  #hasSr({ $pool }) {
    return this.#all('SR').some(sr => sr.$pool === $pool && sr.SR_type === SR_TYPE)
  }

  #poolName({ $pool }) {
    return this.#xo.getObject($pool, 'pool').name_label
  }

  async #callPlugin(host, plugin, fn, args) {
    // Not as a task of XAPI: a task keeps the result, which may be a recovery key.
    const xapi = this.#xo.getXapi(host)
    return JSON.parse(
      await reading(() => xapi.call('host.call_plugin', host._xapiRef, plugin, fn, args))
    )
  }
}

/** What the call returns; what it throws is made readable. */
async function reading(call) {
  try {
    return await call()
  } catch (error) {
    throw failureOf(error)
  }
}

exports.Pools = Pools
