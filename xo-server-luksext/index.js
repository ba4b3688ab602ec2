// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/** Xen Orchestra's plugin for encrypted local storage: what xo-server loads. */

const { methods } = require('./methods')
const { Pools } = require('./pools')
const { routes } = require('./routes')

exports.configurationSchema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    staleHours: {
      type: 'integer',
      minimum: 1,
      default: 24,
      title: 'Hours until a proof is old',
      description:
        'Hosts prove every six hours that the TPM still gives up the key. A proof older than this needs attention.',
    },
  },
}

// What the button “Test plugin” asks for: nothing is written, whatever is chosen.
exports.testSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['host'],
  properties: {
    host: {
      type: 'string',
      $type: 'Host',
      title: 'Host',
      description: 'Has it all that encrypted SRs need? Looked at as by luksext doctor.',
    },
    device: {
      type: 'string',
      title: 'Device',
      description: 'A disk, such as /dev/sdb, that must be free. Optional.',
    },
  },
}

class Plugin {
  #pools
  #staleHours
  #undo = []
  #xo

  constructor(xo) {
    this.#xo = xo
    this.#pools = new Pools(xo, () => this.#staleHours)
  }

  configure({ staleHours }) {
    this.#staleHours = staleHours
  }

  load() {
    try {
      this.#undo.push(this.#xo.addApiMethods(methods(this.#pools)))
      // One by one: where XO refuses one of several, it does not take back the others.
      for (const route of routes(this.#pools)) {
        this.#undo.push(this.#xo.registerRestRoutes([route]))
      }
    } catch (error) {
      this.unload()
      throw error
    }
  }

  unload() {
    for (const undo of this.#undo.splice(0)) {
      undo()
    }
  }

  test({ host, device }) {
    return this.#pools.check(host, device)
  }
}

exports.default = ({ xo }) => new Plugin(xo)
