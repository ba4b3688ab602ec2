// SPDX-License-Identifier: LGPL-2.1-only
/** The plugin's REST routes. Keys are in bodies only, never in an address. */

const BASE = '/rest/v0/plugins/luksext'

// Told instead of what XO says in general.
const REASONS = {
  401: 'You are not signed in to Xen Orchestra: sign in, then reload this page.',
  403: 'This page is for administrators of Xen Orchestra.',
}
const NOT_LOADED = 'The plugin luksext is not loaded: Settings > Plugins of Xen Orchestra.'

/** What the route answers. Throws an Error whose message is for the user. */
export const get = path => request(path, {})

/** The same for a change. */
export const post = (path, body) =>
  request(path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  })

/** Runs a verb of docs/keys.md on an SR. */
export const run = (srUuid, verb, body = {}) =>
  post(`/srs/${encodeURIComponent(srUuid)}/actions/${verb}`, body)

async function request(path, options) {
  let response
  try {
    response = await fetch(BASE + path, {
      ...options,
      cache: 'no-store',
      credentials: 'same-origin',
    })
  } catch {
    throw new Error('Xen Orchestra does not answer.')
  }
  const text = await response.text()
  if (response.ok) {
    return text === '' ? undefined : JSON.parse(text)
  }
  const general =
    response.status === 404 ? NOT_LOADED : `Xen Orchestra answers with status ${response.status}.`
  throw new Error(REASONS[response.status] ?? told(text) ?? general)
}

function told(text) {
  try {
    return JSON.parse(text).error
  } catch {
    return undefined
  }
}
