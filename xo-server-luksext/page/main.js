// SPDX-License-Identifier: LGPL-2.1-only
import { byId } from './dom.js'
import { showForm } from './create.js'
import { showStatus } from './status.js'

const PAGES = { '#status': showStatus, '#new': showForm }

function show() {
  const chosen = location.hash in PAGES ? location.hash : '#status'
  for (const page of Object.keys(PAGES)) {
    byId(page.slice(1)).hidden = page !== chosen
    const link = document.querySelector(`nav a[href="${page}"]`)
    page === chosen
      ? link.setAttribute('aria-current', 'page')
      : link.removeAttribute('aria-current')
  }
  PAGES[chosen]()
}

addEventListener('hashchange', show)
byId('refresh').addEventListener('click', showStatus)
show()
