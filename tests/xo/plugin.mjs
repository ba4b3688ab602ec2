// SPDX-License-Identifier: LGPL-2.1-only
/**
 * Our plugin in a stand-in for xo-server, on a real XAPI by XO's own client library, for a test that
 * is in charge.
 *
 *     node plugin.mjs http://127.0.0.1:PORT
 *
 * Requests: {"verb": "call", "method", "params"} of JSON-RPC, {"verb": "rest", "method", "path",
 * "body"}, and {"verb": "test", "host", "device"}.
 */
import { createClient } from 'xen-api'
import plugin from '../../xo-server-luksext/index.js'
import stub from './stub_xo.js'
import { serve } from './serve.mjs'

const xapi = createClient({
  auth: { user: 'root', password: 'of no meaning in the lab' },
  url: process.argv[2],
})

// xo-server has this in a library that is not to be had alone; it passes its fields on to SR.create.
xapi.SR_create = ({ device_config, host, name_description, name_label, shared, type }) =>
  xapi.call(
    'SR.create',
    host,
    device_config,
    0,
    name_label,
    name_description,
    type,
    'user',
    shared,
    {}
  )

const uuidOf = ref => xapi.getObjectByRef(ref).uuid

/** Objects as XO has them, of the records that the plugin looks at. */
const CONVERTERS = {
  host: ({ name_label }) => ({ type: 'host', name_label, power_state: 'Running' }),
  pool: ({ name_label, master }) => ({ type: 'pool', name_label, master: uuidOf(master) }),
  PBD: ({ host, SR }) => ({ type: 'PBD', host: uuidOf(host), SR: uuidOf(SR) }),
  SM: ({ type }) => ({ type: 'SM', SM_type: type }),
  SR: ({ name_label, type, shared, PBDs }) => ({
    type: 'SR',
    name_label,
    SR_type: type,
    shared,
    $PBDs: PBDs.map(uuidOf),
  }),
}

const objects = {}

async function refresh() {
  await xapi.barrier()
  for (const id of Object.keys(objects)) {
    delete objects[id]
  }
  for (const record of Object.values(xapi.objects.all)) {
    const convert = CONVERTERS[record.$type]
    if (convert !== undefined) {
      const id = record.uuid
      objects[id] = {
        ...convert(record),
        id,
        uuid: id,
        $pool: xapi.pool.uuid,
        _xapiRef: record.$ref,
      }
    }
  }
}

await xapi.connect()
await xapi.objectsFetched
const xo = new stub.StubXo(objects, xapi)
const instance = plugin.default({ xo })
instance.configure({ staleHours: 24 }, { loaded: false })
instance.load()
const origin = await xo.listen()

async function rest({ method, path, body }) {
  const headers = { Cookie: 'token=admin', 'Content-Type': 'application/json' }
  const response = await fetch(origin + path, {
    method,
    headers,
    body: body && JSON.stringify(body),
  })
  const answer = await response.json()
  if (!response.ok) {
    throw Object.assign(new Error(answer.error), answer.data)
  }
  return answer
}

await serve(
  {
    call: ({ method, params }) => xo.call(method, params),
    rest,
    test: ({ host, device }) => instance.test({ host, device }),
  },
  refresh
)
instance.unload()
xo.close()
await xapi.disconnect()
