// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/**
 * The verbs of docs/keys.md that XO offers, by the names that they have in XO.
 *
 * A key that somebody types is called `passphrase`: XO hides a parameter of that name in its logs,
 * its tasks and its audit, and hides none that is called `key`.
 *
 * reveals: the answer has a new recovery key. XO's audit and its web hooks are given the result of
 * every JSON-RPC method, so such a verb is a REST route only.
 */

// Each field is an object of its own: XO changes them while it compiles a method's parameters.
const text = () => ({ type: 'string', optional: true })
const flag = () => ({ type: 'boolean', optional: true })
const needed = () => ({ type: 'string' })

const VERBS = {
  prove: {},
  recoveryAdd: { fields: { name: text(), escrowJwk: text(), passphrase: text() }, reveals: true },
  recoveryRotate: {
    fields: { name: needed(), newName: text(), escrowJwk: text(), passphrase: text() },
    reveals: true,
  },
  recoveryConfirm: { fields: { passphrase: needed() } },
  recoveryTest: { fields: { passphrase: needed() } },
  recoveryRevoke: { fields: { name: text(), slot: text(), device: text() } },
  unlock: { fields: { passphrase: needed() } },
  rebind: {
    fields: {
      slot: text(),
      device: text(),
      pin: text(),
      pinConfig: text(),
      passphrase: text(),
      force: flag(),
    },
  },
  bindingAdd: { fields: { pin: text(), pinConfig: text(), passphrase: text() } },
  bindingRemove: { fields: { slot: text(), device: text(), force: flag() } },
  suspend: { fields: { hours: text(), passphrase: text() } },
  resume: {},
  headerBackup: {},
}

const dashed = name => name.replace(/[A-Z]/g, letter => `-${letter.toLowerCase()}`)

/** The name of a verb in XAPI's plugin, and at the end of its REST route. */
exports.dashed = dashed

/** Arguments for XAPI's plugin: texts, under its names, without what is not given. */
exports.argumentsOf = given =>
  Object.fromEntries(
    Object.entries(given)
      .filter(([, value]) => value !== undefined && value !== '')
      .map(([name, value]) => [name === 'passphrase' ? 'key' : dashed(name), String(value)])
  )

exports.VERBS = VERBS
exports.fields = { flag, needed, text }
