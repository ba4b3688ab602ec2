// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/** The JSON-RPC methods, for administrators only: `xo-cli sr.createLuksExt …`. */

const { VERBS } = require('./verbs')

const text = { type: 'string', optional: true }

/** The methods as xo.addApiMethods takes them; `pools` does the work. */
function methods(pools) {
  const luksext = { status: admin(() => pools.status(), 'Encrypted SRs of all pools, and what needs attention') }
  for (const [name, { fields = {}, reveals }] of Object.entries(VERBS)) {
    if (!reveals) {
      const run = ({ sr, ...given }) => pools.run(name, sr, given)
      luksext[name] = admin(run, `${name} an encrypted SR`, { sr: { type: 'string' }, ...fields })
    }
  }
  return { sr: { createLuksExt: createLuksExt(pools) }, luksext }
}

function createLuksExt(pools) {
  const create = ({ device, ...given }) => pools.create({ ...given, devices: device.split(',') })
  return admin(create, 'Create an encrypted local SR. The devices are formatted', {
    host: { type: 'string' },
    nameLabel: { type: 'string' },
    nameDescription: { type: 'string', minLength: 0, optional: true },
    device: { type: 'string' },
    pin: text,
    pinConfig: text,
    luksVersion: text,
    cipher: text,
    keySize: text,
    discard: { type: 'boolean', optional: true },
    force: { type: 'boolean', optional: true },
  })
}

function admin(run, description, params = {}) {
  const method = given => run(given)
  return Object.assign(method, { description, params, permission: 'admin' })
}

exports.methods = methods
