// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/** The plugin as xo-server loads and calls it. */

const assert = require('node:assert/strict')
const { execFileSync } = require('node:child_process')
const { readFileSync } = require('node:fs')
const { inspect } = require('node:util')
const path = require('node:path')
const { beforeEach, describe, it } = require('node:test')

const ROOT = path.join(__dirname, '..', '..')
const plugin = require(path.join(ROOT, 'xo-server-luksext'))
const { ALERTS } = require(path.join(ROOT, 'xo-server-luksext', 'attention.js'))
const { VERBS, argumentsOf, dashed } = require(path.join(ROOT, 'xo-server-luksext', 'verbs.js'))
const { StubXo } = require('./stub_xo')
const {
  NEW_SR,
  POOL,
  RECOVERY_KEY,
  SR_ALPHA,
  SR_BETA,
  SR_EXT,
  SampleXapi,
  objects,
} = require('./sample')

const BASE = '/rest/v0/plugins/luksext'

let all, instance, xapi, xo

beforeEach(() => {
  all = objects()
  xapi = new SampleXapi()
  xo = new StubXo(all, xapi)
  instance = plugin.default({ xo })
  instance.configure({ staleHours: 24 }, { loaded: false })
  instance.load()
})

const create = { host: 'host-alpha', nameLabel: 'local', device: '/dev/sdb' }

/** A request to a served XO: its status and its body. */
async function request(
  method,
  pathname,
  { body, token = 'admin', type = 'application/json' } = {}
) {
  const origin = await xo.listen()
  try {
    const headers = {
      ...(token && { Cookie: `token=${token}` }),
      ...(body !== undefined && { 'Content-Type': type }),
    }
    const response = await fetch(origin + BASE + pathname, { method, headers, body })
    const text = await response.text()
    return { status: response.status, body: text && JSON.parse(text), headers: response.headers }
  } finally {
    xo.close()
  }
}

/** The verbs of the driver: whether each of their parameters is required, by name. */
function driverVerbs() {
  const script =
    'import json; from luksext.verbs import VERBS; ' +
    'print(json.dumps({v.name: {p.name: p.required for p in v.parameters} for v in VERBS.values()}))'
  const env = {
    ...process.env,
    PYTHONPATH: path.join(ROOT, 'drivers'),
    PYTHONDONTWRITEBYTECODE: '1',
  }
  return JSON.parse(execFileSync('python3', ['-c', script], { env, encoding: 'utf8' }))
}

/** As XO before 6.7 registers routes. */
function refusingArrays(routes) {
  if (routes.some(({ body = {} }) => Object.values(body).some(({ type }) => type === 'array'))) {
    throw new Error('Unsupported type: array')
  }
  return StubXo.prototype.registerRestRoutes.call(this, routes)
}

const post = (pathname, body, options) =>
  request('POST', pathname, { body: JSON.stringify(body), ...options })

describe('creation', () => {
  it('makes a local SR of the type luksext and returns its UUID', async () => {
    assert.equal(
      await xo.call('sr.createLuksExt', { ...create, device: '/dev/sdb,/dev/sdc', pin: 'tpm2' }),
      NEW_SR
    )
    const [, options] = xapi.calls[0]
    assert.deepEqual(options, {
      device_config: { device: '/dev/sdb,/dev/sdc', pin: 'tpm2' },
      host: 'OpaqueRef:host-alpha',
      name_description: '',
      name_label: 'local',
      shared: false,
      type: 'luksext',
    })
  })

  it('gives every option to the driver under its own name, as a text', async () => {
    const options = {
      pinConfig: '{"pcr_ids":"7"}',
      luksVersion: '2',
      cipher: 'c',
      keySize: '256',
      discard: true,
      workqueues: false,
    }
    await xo.call('sr.createLuksExt', { ...create, ...options, force: false })
    assert.deepEqual(xapi.calls[0][1].device_config, {
      device: '/dev/sdb',
      'pin-config': '{"pcr_ids":"7"}',
      'luks-version': '2',
      cipher: 'c',
      'key-size': '256',
      discard: 'true',
      workqueues: 'false',
      force: 'false',
    })
  })

  it('is a REST route and a task of XO', async () => {
    const { status, body } = await post('/srs', {
      host: 'host-alpha',
      nameLabel: 'local',
      devices: ['/dev/sdb'],
    })
    assert.equal(status, 201)
    assert.deepEqual(body, { id: NEW_SR })
    assert.deepEqual(xo.tasks, [{ name: 'create encrypted SR', objectId: 'host-alpha' }])
  })

  it('tells a refusal of the driver as its sentence, with code and parameters', async () => {
    xapi.failing['SR.create'] = ['SR_BACKEND_FAILURE_6232', '', 'host-alpha has no TPM 2.0.', '']
    const { status, body } = await post('/srs', {
      host: 'host-alpha',
      nameLabel: 'local',
      devices: ['/dev/sdb'],
    })
    assert.equal(status, 409)
    assert.equal(body.error, 'host-alpha has no TPM 2.0. (SR_BACKEND_FAILURE_6232)')
    assert.deepEqual(body.data, {
      code: 'SR_BACKEND_FAILURE_6232',
      params: ['', 'host-alpha has no TPM 2.0.', ''],
    })
  })

  it('says what to do when XO stops waiting', async () => {
    xapi.failing['SR.create'] = ['UND_ERR_HEADERS_TIMEOUT']
    await assert.rejects(xo.call('sr.createLuksExt', create), /The host goes on/)
  })
})

describe('access', () => {
  it('is for administrators, by JSON-RPC', async () => {
    for (const name of Object.keys(xo.methods)) {
      const given = { ...create, sr: SR_ALPHA, passphrase: 'x', pin: 'p', slot: '1' }
      await assert.rejects(xo.call(name, given, { admin: false }), /permissions/, name)
    }
    assert.deepEqual(xapi.calls, [])
  })

  it('is for administrators, by REST', async () => {
    assert.equal((await request('GET', '/status', { token: '' })).status, 401)
    assert.equal((await request('GET', '/status', { token: 'somebody' })).status, 403)
    assert.equal(
      (await post(`/srs/${SR_ALPHA}/actions/prove`, {}, { token: 'somebody' })).status,
      403
    )
    assert.deepEqual(xapi.calls, [])
  })

  it('names no privilege and no way around the sign-in in any route', () => {
    for (const { middlewares = [], scope, security } of xo.routes) {
      assert.deepEqual(
        [middlewares.map(({ name }) => name).filter(name => name !== 'json'), scope, security],
        [[], undefined, undefined]
      )
    }
  })

  it('refuses what the form of another site can send', async () => {
    for (const type of [
      'application/x-www-form-urlencoded',
      'text/plain',
      'multipart/form-data; boundary=x',
    ]) {
      const pathname = `/srs/${SR_ALPHA}/actions/recovery-revoke`
      assert.equal((await request('POST', pathname, { body: 'name=safe', type })).status, 415, type)
    }
    assert.deepEqual(xapi.calls, [])
  })
})

describe('secrets', () => {
  const key = RECOVERY_KEY

  it('are given to XAPI as the argument key, and to XO under a name that it hides', async () => {
    await xo.call('luksext.recoveryTest', { sr: SR_ALPHA, passphrase: key })
    assert.deepEqual(xapi.calls[0].at(-1), { key, 'sr-uuid': SR_ALPHA })
    for (const { params } of Object.values(xo.methods)) {
      assert.ok(!('key' in params))
    }
  })

  it('are not in an error, whatever the client library keeps there', async () => {
    xapi.failing['recovery-test'] = ['SR_BACKEND_FAILURE_6251', '', 'It opens no keyslot.', '']
    const error = await xo
      .call('luksext.recoveryTest', { sr: SR_ALPHA, passphrase: key })
      .catch(error => error)
    assert.match(error.message, /opens no keyslot/)
    assert.ok(!inspect(error, { depth: null, showHidden: true }).includes(key))
  })

  it('are not in an error of the network either', async () => {
    xapi.call = async (method, ...params) => {
      throw Object.assign(new Error('operation timed out'), { call: { method, params } })
    }
    const asked = xo.call('luksext.recoveryTest', { sr: SR_ALPHA, passphrase: key })
    const error = await asked.catch(error => error)
    assert.equal(error.message, 'operation timed out')
    assert.ok(!inspect(error, { depth: null, showHidden: true }).includes(key))
  })

  it('are not in the answer of a JSON-RPC method, which XO hands to its audit and its web hooks', async () => {
    const all = { ...create, sr: SR_ALPHA, passphrase: 'x', pin: 'p', slot: '1' }
    for (const [name, { params }] of Object.entries(xo.methods)) {
      const given = Object.fromEntries(Object.entries(all).filter(([name]) => name in params))
      assert.ok(!JSON.stringify(await xo.call(name, given)).includes(key), name)
    }
  })

  it('are shown once, by REST, and kept by no cache and no task', async () => {
    const { body, headers } = await post(`/srs/${SR_ALPHA}/actions/recovery-add`, { name: 'safe' })
    assert.equal(body.recovery_key, key)
    assert.equal(headers.get('cache-control'), 'no-store')
    assert.deepEqual(xo.tasks, [])
    // A task of XAPI would keep it too.
    assert.deepEqual(
      xapi.calls.map(([method]) => method),
      ['host.call_plugin']
    )
  })
})

describe('status', () => {
  const srOf = (status, uuid) =>
    status[0].hosts.flatMap(({ srs = [] }) => srs).find(sr => sr.sr_uuid === uuid)

  it('is asked of the pool’s master', async () => {
    const status = await xo.call('luksext.status', {})
    assert.deepEqual(xapi.calls, [
      ['host.call_plugin', 'OpaqueRef:host-alpha', 'luksext', 'pool-status', {}],
    ])
    assert.deepEqual(
      status.map(({ id, name }) => [id, name]),
      [[POOL, 'Paris']]
    )
  })

  it('finds nothing wrong where all is proved and confirmed', async () => {
    assert.deepEqual(srOf(await xo.call('luksext.status', {}), SR_ALPHA).attention, [])
  })

  it('tells alerts and old proofs', async () => {
    assert.deepEqual(srOf(await xo.call('luksext.status', {}), SR_BETA).attention, [
      { code: 'LUKS-W001', text: 'no recovery key' },
      { code: '', text: 'the last proof of keyslot 0 of /dev/nvme0n1 is 51 hours old' },
    ])
  })

  it('calls a proof old when the administrator says so', async () => {
    instance.configure({ staleHours: 72 }, { loaded: true })
    assert.deepEqual(
      srOf(await xo.call('luksext.status', {}), SR_BETA).attention.map(({ code }) => code),
      ['LUKS-W001']
    )
  })

  it('keeps a host that cannot be asked, and an SR that is not encrypted', async () => {
    const status = await xo.call('luksext.status', {})
    assert.match(status[0].hosts[2].error, /It is down/)
    assert.equal(srOf(status, SR_EXT).attention, undefined)
  })

  it('tells why a pool cannot be asked', async () => {
    xapi.failing['pool-status'] = ['XENAPI_MISSING_PLUGIN', 'luksext']
    assert.match((await xo.call('luksext.status', {}))[0].error, /install the package/)
  })

  it('keeps a pool whose SR type is not registered any more', async () => {
    const registered = async () =>
      (await xo.call('luksext.status', {})).map(({ registered }) => registered)
    assert.deepEqual(await registered(), [true])
    delete all.sm
    assert.deepEqual(await registered(), [false])
  })

  it('leaves out pools without the driver', async () => {
    for (const id of ['sm', SR_ALPHA, SR_BETA]) {
      delete all[id]
    }
    assert.deepEqual(await xo.call('luksext.status', {}), [])
  })

  it('knows the alerts of the documentation', () => {
    const documented = readFileSync(path.join(ROOT, 'docs', 'alerts.md'), 'utf8').matchAll(
      /^\| `(LUKS-W\d+)` \| ([^|]+) \|/gm
    )
    assert.deepEqual(
      ALERTS,
      Object.fromEntries(Array.from(documented, ([, code, name]) => [code, name]))
    )
  })
})

describe('hosts and disks', () => {
  it('lists the running hosts and whether the driver is there', async () => {
    assert.deepEqual((await request('GET', '/hosts')).body, [
      { id: 'host-alpha', name: 'xcp-alpha', pool: 'Paris', ready: true },
      { id: 'host-beta', name: 'xcp-beta', pool: 'Paris', ready: true },
    ])
  })

  it('offers whole writable disks that nothing is on', async () => {
    const { body } = await request('GET', '/hosts/host-alpha/devices')
    assert.deepEqual(
      body.map(({ path }) => path),
      ['/dev/sdb', '/dev/sdc']
    )
  })

  it('tests a host and a disk without writing', async () => {
    await instance.test({ host: 'host-alpha' })
    await instance.test({ host: 'host-alpha', device: '/dev/sdb' })
    assert.deepEqual(
      new Set(xapi.calls.map(([, , name, fn]) => `${name} ${fn}`)),
      new Set(['luksext doctor', 'lsblk.py list_block_devices'])
    )
    await assert.rejects(instance.test({ host: 'host-alpha', device: '/dev/sda' }), /no free disk/)
  })

  it('fails a host by all that its doctor finds, with what to do', async () => {
    const finding = code => ({ code, name: 'n', text: `It has ${code}.`, next: `Cure ${code}.` })
    xapi.answers = {
      doctor: () => ({ ok: false, findings: ['LUKS-D010', 'LUKS-D031'].map(finding) }),
    }
    await assert.rejects(instance.test({ host: 'host-alpha' }), {
      message:
        'LUKS-D010: It has LUKS-D010. Cure LUKS-D010.\nLUKS-D031: It has LUKS-D031. Cure LUKS-D031.',
    })
    xapi.failing.doctor = ['XENAPI_MISSING_PLUGIN', 'luksext']
    await assert.rejects(instance.test({ host: 'host-alpha' }), /install the package/)
  })
})

describe('verbs', () => {
  it('run on the host that has the disks', async () => {
    await xo.call('luksext.prove', { sr: SR_BETA })
    assert.deepEqual(xapi.calls, [
      ['host.call_plugin', 'OpaqueRef:host-beta', 'luksext', 'prove', { 'sr-uuid': SR_BETA }],
    ])
  })

  it('do not let an argument name another SR', async () => {
    await post(`/srs/${SR_ALPHA}/actions/prove`, { 'sr-uuid': SR_BETA, srUuid: SR_BETA })
    assert.deepEqual(xapi.calls[0].at(-1), { 'sr-uuid': SR_ALPHA })
  })

  it('connect the SR once it is unlocked', async () => {
    await xo.call('luksext.unlock', { sr: SR_ALPHA, passphrase: RECOVERY_KEY })
    assert.deepEqual(xapi.calls.at(-1), ['Async.PBD.plug', 'OpaqueRef:pbd-alpha'])
  })

  it('do not connect an SR that was not unlocked', async () => {
    xapi.failing.unlock = ['SR_BACKEND_FAILURE_6251', '', 'No.', '']
    await assert.rejects(xo.call('luksext.unlock', { sr: SR_ALPHA, passphrase: RECOVERY_KEY }))
    assert.equal(xapi.calls.length, 1)
  })

  it('need nothing but what they cannot do without', () => {
    const needed = ({ params }) => Object.keys(params).filter(name => !params[name].optional)
    assert.deepEqual(needed(xo.methods['sr.createLuksExt']), ['host', 'nameLabel', 'device'])
    assert.deepEqual(needed(xo.methods['luksext.rebind']), ['sr'])
  })

  it('are those of the driver, with all its parameters, and need what it needs', () => {
    const driver = driverVerbs()
    for (const [name, { fields = {} }] of Object.entries(VERBS)) {
      const needed = Object.entries(fields).map(([field, { optional }]) => [field, !optional])
      const asked = Object.entries(argumentsOf(Object.fromEntries(needed)))
      assert.deepEqual(
        Object.fromEntries(asked),
        Object.fromEntries(
          Object.entries(driver[dashed(name)]).map(([key, required]) => [key, String(required)])
        ),
        name
      )
    }
  })

  it('are refused on an SR of another type', async () => {
    await assert.rejects(xo.call('luksext.prove', { sr: SR_EXT }), /not encrypted/)
  })

  it('are the same by REST', async () => {
    const names = Object.keys(xo.methods).filter(name => /^luksext\.(?!status)/.test(name))
    const dashed = names.map(name =>
      name.slice(8).replace(/[A-Z]/g, letter => `-${letter.toLowerCase()}`)
    )
    const actions = xo.routes.map(({ endpoint }) => endpoint.split('/actions/')[1]).filter(Boolean)
    assert.deepEqual(
      actions.filter(action => !dashed.includes(action)),
      ['recovery-add', 'recovery-rotate']
    )
  })
})

describe('the life of the plugin', () => {
  it('takes everything back when it is unloaded, and can be loaded again', () => {
    instance.unload()
    assert.deepEqual([xo.methods, xo.routes], [{}, []])
    instance.load()
    assert.ok('sr.createLuksExt' in xo.methods)
  })

  it('leaves nothing behind in an XO that is too old for it, and can be loaded in a newer one', () => {
    instance.unload()
    for (const refuse of [undefined, refusingArrays]) {
      xo.registerRestRoutes = refuse
      assert.throws(() => instance.load())
      assert.deepEqual([xo.methods, xo.routes], [{}, []])
    }
    delete xo.registerRestRoutes
    instance.load()
    assert.ok('sr.createLuksExt' in xo.methods)
  })

  it('needs no configuration', () => {
    assert.equal(plugin.configurationSchema.required, undefined)
    assert.equal(plugin.configurationSchema.properties.staleHours.default, 24)
  })

  it('asks for a host by XO’s picker', () => {
    assert.equal(plugin.testSchema.properties.host.$type, 'Host')
  })
})
