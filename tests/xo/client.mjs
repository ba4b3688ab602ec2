// SPDX-License-Identifier: LGPL-2.1-only
/**
 * What xo-server does to a local SR, through its own client library, for a test that is in charge.
 *
 *     node client.mjs http://127.0.0.1:PORT
 *
 * A request names the SR by its `uuid`. The calls and their order were recorded from xo-server; the
 * code is not its.
 */
import { createClient } from 'xen-api'
import { serve } from './serve.mjs'

const MAINTENANCE = 'xo:maintenanceState'

const xapi = createClient({
  auth: { user: 'root', password: 'of no meaning in the lab' },
  url: process.argv[2],
})

const find = uuid => xapi.call('SR.get_by_uuid', uuid)
const pbds = sr => xapi.getField('SR', sr, 'PBDs')
const plugAll = async sr =>
  Promise.all((await pbds(sr)).map(pbd => xapi.callAsync('PBD.plug', pbd)))
const unplugAll = async sr =>
  Promise.all((await pbds(sr)).map(pbd => xapi.callAsync('PBD.unplug', pbd)))

const verbs = {
  /** sr.createExt, but for the type: one synchronous call. Returns the UUID. */
  async create({ type, device_config: deviceConfig, name }) {
    const host = xapi.pool.master
    const sr = await xapi.call(
      'SR.create',
      host,
      deviceConfig,
      0,
      name,
      '',
      type,
      'user',
      false,
      {}
    )
    const [record] = await Promise.all([
      xapi.call('SR.get_record', sr),
      xapi.setFieldEntry('SR', sr, 'other_config', 'auto-scan', 'true'),
    ])
    return record.uuid
  },

  /** sr.connectAllPbds */
  connectAllPbds: async ({ uuid }) => plugAll(await find(uuid)),

  /** sr.disconnectAllPbds */
  disconnectAllPbds: async ({ uuid }) => unplugAll(await find(uuid)),

  /** sr.scan */
  scan: async ({ uuid }) => xapi.callAsync('SR.scan', await find(uuid)),

  /** sr.destroy */
  async destroy({ uuid }) {
    const sr = await find(uuid)
    await unplugAll(sr)
    await xapi.call('SR.destroy', sr)
  },

  /** sr.forget */
  async forget({ uuid }) {
    const sr = await find(uuid)
    await unplugAll(sr)
    await xapi.call('SR.forget', sr)
  },

  /** sr.enableMaintenanceMode of an SR that no running VM uses */
  async enableMaintenanceMode({ uuid }) {
    const sr = await find(uuid)
    const state = { timestamp: Date.now(), shutdownVms: {}, unpluggedPbds: [] }
    await xapi.call('SR.add_to_other_config', sr, MAINTENANCE, JSON.stringify(state))
    for (const pbd of await pbds(sr)) {
      if (await xapi.getField('PBD', pbd, 'currently_attached')) {
        state.unpluggedPbds.push(await xapi.getField('PBD', pbd, 'uuid'))
        await xapi.callAsync('PBD.unplug', pbd)
      }
    }
    await xapi.setFieldEntry('SR', sr, 'other_config', MAINTENANCE, JSON.stringify(state))
  },

  /** sr.disableMaintenanceMode */
  async disableMaintenanceMode({ uuid }) {
    const sr = await find(uuid)
    const state = JSON.parse((await xapi.getField('SR', sr, 'other_config'))[MAINTENANCE])
    await xapi.call('SR.remove_from_other_config', sr, MAINTENANCE)
    for (const uuid of state.unpluggedPbds) {
      await xapi.callAsync('PBD.plug', await xapi.call('PBD.get_by_uuid', uuid))
    }
  },

  /** What XO has of an SR in its cache, which only XAPI's events change; null when it has none. */
  async seen({ uuid }) {
    await xapi.barrier()
    const sr = xapi.getObjectByUuid(uuid, null)
    return sr && { ...sr, attached: sr.$PBDs.map(pbd => pbd.currently_attached) }
  },

  /** The types that XO finds a driver of, as its createZfs asks. */
  types: () => xapi.call('SR.get_supported_types'),
}

await xapi.connect()
await xapi.objectsFetched
await serve(verbs)
await xapi.disconnect()
