// SPDX-License-Identifier: LGPL-2.1-only
/** Elements. Names of hosts and SRs are free text: they become text nodes, never HTML. */

export const byId = id => document.getElementById(id)

/** A new element; properties as of the DOM, children elements or texts. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties)
  made.append(...children.flat().filter(child => child !== undefined))
  return made
}

/** A button that does nothing more while what it does goes on. */
export function button(text, run, properties = {}) {
  const made = element('button', { type: 'button', ...properties }, text)
  made.addEventListener('click', () => onlyOnce(made, run))
  return made
}

/** Runs something for a control unless it runs already. Not by disabling, which takes the focus. */
export async function onlyOnce(control, run) {
  if (control.ariaBusy === 'true') {
    return
  }
  control.ariaBusy = 'true'
  try {
    await run()
  } finally {
    control.ariaBusy = 'false'
  }
}

/** A message, told to screen readers by the live region that it is put into. */
export const note = (kind, ...children) => element('p', { className: `note ${kind}` }, ...children)

/** Bytes as disks are sold: 1.9 TB. */
export function bytes(size) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']
  const power = Math.min(Math.floor(Math.log10(Math.max(size, 1)) / 3), units.length - 1)
  return `${(size / 1000 ** power).toFixed(power > 3 ? 1 : 0)} ${units[power]}`
}

/** How long ago an ISO time was. */
export function ago(time) {
  const hours = Math.floor((Date.now() - Date.parse(time)) / 3600e3)
  return hours < 1
    ? 'within the hour'
    : hours < 48
      ? `${hours} h ago`
      : `${Math.floor(hours / 24)} days ago`
}
