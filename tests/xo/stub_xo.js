// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/**
 * A stand-in for xo-server, as far as its plugins see it: objects, JSON-RPC methods, REST routes,
 * static mounts. It keeps the rules that xo-server has for plugins, and has no code of it.
 */

const http = require('node:http')
const { readFile } = require('node:fs/promises')
const path = require('node:path')

const PROPERTIES = new Set(['description', 'params', 'permission', 'resolve'])
const REST = '/rest/v0/'
const CSP =
  "default-src 'self'; connect-src 'self' https://api.github.com; script-src 'self'; " +
  "style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'self'; form-action 'self'"
const CONTENT_TYPES = { '.css': 'text/css', '.html': 'text/html', '.js': 'text/javascript' }

/** An error of XO itself: no such object, not enough permissions, invalid parameters. */
class XoError extends Error {
  constructor(status, message) {
    super(message)
    this.status = status
  }
}

class StubXo {
  methods = {}
  routes = []
  tasks = []
  #objects
  #xapi

  /**
   * @param objects XO's objects by id, as its API shows them
   * @param xapi what getXapi returns, for any object
   */
  constructor(objects, xapi) {
    this.#objects = objects
    this.#xapi = xapi
  }

  // What plugins are given ------------------------------------------------------------------

  getObject(id, type) {
    const object = this.#objects[id]
    if (object === undefined || (type !== undefined && object.type !== type)) {
      throw new XoError(404, `no such ${type} ${id}`)
    }
    return object
  }

  getObjects({ filter }) {
    const matches = object => Object.entries(filter).every(([key, value]) => object[key] === value)
    return Object.fromEntries(Object.entries(this.#objects).filter(([, object]) => matches(object)))
  }

  getXapi(object) {
    this.getObject(object.id, object.type)
    return this.#xapi
  }

  addApiMethods(tree, base = '') {
    const names = []
    for (const [key, method] of Object.entries(tree)) {
      const name = base + key
      if (typeof method !== 'function') {
        names.push(...this.addApiMethods(method, `${name}.`).names)
        continue
      }
      if (name in this.methods) {
        throw new Error(`API method ${name} already exists`)
      }
      const strange = Object.keys(method).find(property => !PROPERTIES.has(property))
      if (strange !== undefined) {
        throw new Error(`invalid prop ${strange} for API method ${name}`)
      }
      this.methods[name] = Object.assign(given => method(given), method, {
        params: compiled(method.params),
      })
      names.push(name)
    }
    return Object.assign(() => names.forEach(name => delete this.methods[name]), { names })
  }

  registerRestRoutes(routes) {
    this.routes.push(...routes)
    return () => (this.routes = this.routes.filter(route => !routes.includes(route)))
  }

  // What XO does with it --------------------------------------------------------------------

  /** A JSON-RPC call by a user who is an administrator or not. */
  async call(name, params, { admin = true } = {}) {
    const method = this.methods[name]
    if (method.permission === 'admin' && !admin) {
      throw new XoError(403, 'not enough permissions')
    }
    checkFields(params, method.params)
    const strange = Object.keys(params).find(key => !(key in method.params))
    if (
      strange !== undefined ||
      Object.entries(params).some(
        ([key, value]) => value === '' && !('minLength' in method.params[key])
      )
    ) {
      throw new XoError(422, 'invalid parameters')
    }
    return method(params)
  }

  /** Serves REST and a mount; the cookie `token` tells who it is. Returns the origin. */
  listen(mounts = {}) {
    this.server = http.createServer((req, res) =>
      this.#serve(req, res, mounts).catch(error =>
        answer(res, error.status ?? 500, { error: error.message })
      )
    )
    return new Promise(resolve =>
      this.server.listen(0, '127.0.0.1', () =>
        resolve(`http://127.0.0.1:${this.server.address().port}`)
      )
    )
  }

  close() {
    this.server.closeAllConnections()
    this.server.close()
  }

  async #serve(req, res, mounts) {
    res.setHeader('Content-Security-Policy', CSP)
    const user = /token=(\w+)/.exec(req.headers.cookie ?? '')?.[1]
    const { pathname } = new URL(req.url, 'http://xo')
    if (pathname.startsWith(REST)) {
      return this.#rest(req, res, pathname.slice(REST.length), user)
    }
    if (user === undefined) {
      return res.writeHead(302, { Location: '/signin' }).end()
    }
    return serveFile(res, pathname, mounts)
  }

  async #rest(req, res, pathname, user) {
    const route = this.routes.find(
      route => route.method === req.method.toLowerCase() && match(route, pathname)
    )
    if (route === undefined) {
      return res.writeHead(404, { 'Content-Type': 'text/html' }).end('<pre>Cannot GET</pre>')
    }
    // express
    req.params = match(route, pathname)
    req.body = await bodyOf(req)
    res.set = (name, value) => res.setHeader(name, value)
    res.status = code => Object.assign(res, { statusCode: code })
    res.json = value => answer(res, res.statusCode, value)
    if (user === undefined) {
      throw new XoError(401, 'invalid credentials')
    }
    if (user !== 'admin') {
      throw new XoError(403, 'not enough permissions')
    }
    checkFields(req.params, route.params)
    checkFields(req.body, route.body)
    const result = await route.callback({
      req,
      res,
      restApi: { xoApp: this },
      createAction: this.#action(res),
    })
    if (!res.headersSent) {
      answer(res, result === undefined ? 204 : res.statusCode, result)
    }
  }

  #action(res) {
    return async (run, { statusCode, taskProperties }) => {
      this.tasks.push(taskProperties)
      const result = await run()
      res.status(statusCode)
      return result
    }
  }
}

/**
 * The parameters of a method as XO understands them. It takes `optional` out of each field while it
 * goes through them: of a field that two names share, only the first is optional.
 */
function compiled(params) {
  const fields = structuredClone(params)
  return Object.fromEntries(
    Object.entries(fields).map(([name, field]) => {
      const { optional = false } = field
      delete field.optional
      return [name, { ...field, optional }]
    })
  )
}

function match({ endpoint }, pathname) {
  const pattern = endpoint.replace(/{(\w+)}/g, '(?<$1>[^/]+)')
  const found = new RegExp(`^${pattern}$`).exec(pathname)
  return found && { ...found.groups }
}

/** XO reads forms for its sign-in page, on every route; JSON where the route says so. */
async function bodyOf(req) {
  const pieces = []
  for await (const piece of req) {
    pieces.push(piece)
  }
  const body = Buffer.concat(pieces).toString()
  const type = req.headers['content-type'] ?? ''
  if (type.startsWith('application/x-www-form-urlencoded')) {
    return Object.fromEntries(new URLSearchParams(body))
  }
  return type.startsWith('application/json') && body !== '' ? JSON.parse(body) : {}
}

function checkFields(given = {}, fields = {}) {
  for (const [name, field] of Object.entries(fields)) {
    const value = given[name]
    if (value === undefined ? !field.optional : !isOf(field, value)) {
      throw new XoError(422, `invalid parameters: ${name}`)
    }
  }
}

function isOf(field, value) {
  return field.type === 'array'
    ? Array.isArray(value) && value.every(item => isOf(field.items, item))
    : typeof value === field.type
}

async function serveFile(res, pathname, mounts) {
  const url = Object.keys(mounts).find(url => pathname.startsWith(`${url}/`))
  if (url === undefined) {
    throw new XoError(404, 'no such page')
  }
  const name = pathname.slice(url.length + 1) || 'index.html'
  const file = path.join(mounts[url], name)
  res
    .writeHead(200, { 'Content-Type': CONTENT_TYPES[path.extname(file)] })
    .end(await readFile(file))
}

function answer(res, status, value) {
  res
    .writeHead(status, { 'Content-Type': 'application/json' })
    .end(value === undefined ? '' : JSON.stringify(value))
}

exports.StubXo = StubXo
