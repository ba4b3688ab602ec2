// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/**
 * The REST routes below /rest/v0/plugins/luksext, for administrators only: XO lets nobody else use
 * a route of a plugin that names no privilege.
 */

const { XapiFailure } = require('./failure')
const { VERBS, dashed, fields } = require('./verbs')

const { flag, needed, text } = fields

const BASE = 'plugins/luksext'
const tags = ['luksext']
const id = { id: needed() }

const CREATE = {
  host: needed(),
  nameLabel: needed(),
  nameDescription: text(),
  devices: { type: 'array', items: { type: 'string' }, example: ['/dev/sdb'] },
  pin: text(),
  pinConfig: text(),
  luksVersion: text(),
  cipher: text(),
  keySize: text(),
  discard: flag(),
  workqueues: flag(),
  force: flag(),
}

/** The routes as xo.registerRestRoutes takes them; `pools` does the work. */
function routes(pools) {
  return [
    get('status', 'Encrypted SRs of all pools, and what needs attention', () => pools.status()),
    get('hosts', 'Running hosts, and whether an encrypted SR can be made there', () =>
      pools.hosts()
    ),
    {
      ...get('hosts/{id}/devices', 'Free disks of a host', ({ params }) =>
        pools.devices(params.id)
      ),
      params: id,
    },
    post('srs', 'Create an encrypted local SR. The devices are formatted', CREATE, create(pools)),
    ...Object.entries(VERBS).map(([name, { fields: body = {} }]) => ({
      ...post(
        `srs/{id}/actions/${dashed(name)}`,
        `The verb ${dashed(name)} on an encrypted SR`,
        body,
        ({ req }) => pools.run(name, req.params.id, req.body)
      ),
      params: id,
    })),
  ]
}

/** A task of XO, so that a long creation is seen; it is told of no secret, since none is in it. */
function create(pools) {
  return ({ req, createAction }) =>
    createAction(async () => ({ id: await pools.create(req.body) }), {
      sync: true,
      statusCode: 201,
      taskProperties: { name: 'create encrypted SR', objectId: req.body.host },
    })
}

function get(endpoint, description, run) {
  return route('get', endpoint, description, ({ req }) => run(req))
}

function post(endpoint, description, body, run) {
  return {
    ...route('post', endpoint, description, fromOwnPage(run)),
    body,
    middlewares: [{ name: 'json' }],
  }
}

function route(method, endpoint, description, run) {
  return { method, endpoint: `${BASE}/${endpoint}`, description, tags, callback: answering(run) }
}

/**
 * Refuses what the form of a foreign site could send with the cookie of an administrator: a browser
 * sends JSON to another site only after that site agreed, and XO agrees to none.
 */
function fromOwnPage(run) {
  return context =>
    /^application\/json\b/.test(context.req.headers['content-type'] ?? '')
      ? run(context)
      : refuse(context.res, 415, { error: 'The body must be application/json.' })
}

/** Answers are kept by no cache; what XAPI refused is told as its sentence with code and parameters. */
function answering(run) {
  return async context => {
    context.res.set('Cache-Control', 'no-store')
    try {
      return await run(context)
    } catch (error) {
      if (!(error instanceof XapiFailure)) {
        throw error
      }
      return refuse(context.res, 409, { error: error.message, data: error.data })
    }
  }
}

function refuse(res, status, body) {
  res.status(status).json(body)
}

exports.routes = routes
