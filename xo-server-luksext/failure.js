// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/** Failures of XAPI as a person reads them, without what was sent. */

/**
 * What XAPI answered with.
 *
 * Its client library keeps the arguments of a failed call in the error, and XO logs errors whole. A
 * recovery key may be among them: so this error has the code and the parameters, nothing else.
 */
class XapiFailure extends Error {
  constructor(code, params, message) {
    super(message)
    this.name = 'XapiFailure'
    this.code = code
    this.params = params
    this.data = { code, params }
  }
}

const SENTENCES = {
  CANNOT_CONTACT_HOST: () =>
    'The pool’s master cannot reach the host: it is down, or the network is.',
  HOST_OFFLINE: () => 'The host is offline.',
  SR_UNKNOWN_DRIVER: () =>
    'XAPI knows no SR type luksext: install the package luksext on every host of the pool.',
  UND_ERR_HEADERS_TIMEOUT: () =>
    'XO stopped waiting after five minutes. The host goes on: look at its list of SRs before you try again.',
  XENAPI_MISSING_PLUGIN: plugin => `The host has no plugin ${plugin}: install the package on it.`,
}

/** The failure to show for what a call of XAPI threw; an error of XO itself is left as it is. */
function failureOf(error) {
  const { call, code, params = [], message } = error
  if (call === undefined && typeof code !== 'string') {
    return error
  }
  if (/^SR_BACKEND_FAILURE_/.test(code)) {
    // xapi puts nothing before and after the driver's sentence.
    const sentence = params.filter(text => text !== '').join(' ')
    return new XapiFailure(code, params, `${sentence} (${code})`)
  }
  return new XapiFailure(code, params, SENTENCES[code]?.(...params) ?? message)
}

exports.XapiFailure = XapiFailure
exports.failureOf = failureOf
