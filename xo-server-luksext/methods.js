// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/** The JSON-RPC methods, for administrators only: `xo-cli sr.createLuksExt …`. */

const { VERBS, dashed, fields } = require('./verbs')

const { flag, needed, text } = fields

/** The methods as xo.addApiMethods takes them; `pools` does the work. */
function methods(pools) {
  const luksext = {
    status: admin(() => pools.status(), 'Encrypted SRs of all pools, and what needs attention'),
  }
  for (const [name, { fields = {}, reveals }] of Object.entries(VERBS)) {
    if (!reveals) {
      const run = ({ sr, ...given }) => pools.run(name, sr, given)
      luksext[name] = admin(run, `The verb ${dashed(name)} on an encrypted SR`, {
        sr: needed(),
        ...fields,
      })
    }
  }
  return { sr: { createLuksExt: createLuksExt(pools) }, luksext }
}

function createLuksExt(pools) {
  const create = ({ device, ...given }) => pools.create({ ...given, devices: device.split(',') })
  return admin(create, 'Create an encrypted local SR. The devices are formatted', {
    host: needed(),
    nameLabel: needed(),
    nameDescription: { type: 'string', minLength: 0, optional: true },
    device: needed(),
    pin: text(),
    pinConfig: text(),
    luksVersion: text(),
    cipher: text(),
    keySize: text(),
    discard: flag(),
    workqueues: flag(),
    force: flag(),
  })
}

function admin(run, description, params = {}) {
  const method = given => run(given)
  return Object.assign(method, { description, params, permission: 'admin' })
}

exports.methods = methods
