// SPDX-License-Identifier: LGPL-2.1-only
import { createInterface } from 'node:readline'

/**
 * Reads one request a line from stdin, {"verb": …, …}, and answers each with one line of JSON:
 * {"result": …}, or {"error": {"code", "params", "message"}} as xo-server shows it to its users.
 *
 * @param verbs functions by name, which get the request
 * @param before is run before each
 */
export async function serve(verbs, before = () => {}) {
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write(JSON.stringify(await answer(verbs, before, JSON.parse(line))) + '\n')
  }
}

async function answer(verbs, before, { verb, ...request }) {
  try {
    await before()
    return { result: (await verbs[verb](request)) ?? null }
  } catch (error) {
    const { code = 'none', params = [], message } = error
    return { error: { code, params, message } }
  }
}
