// SPDX-License-Identifier: LGPL-2.1-only
/** Dialogs about recovery keys. A key is in the page while its dialog is open, and nowhere else. */

import { run } from './api.js'
import { byId, button, element, note, onlyOnce } from './dom.js'

/** Makes a recovery key, shows it once for printing, and has it typed back. False if given up. */
export function addRecoveryKey(sr) {
  return dialog(`Recovery key of ${sr.name}`, (content, close) => {
    const name = field('Name of the key', {
      value: 'safe',
      pattern: '[A-Za-z0-9._\\-]+',
      required: true,
    })
    const form = formOf(
      [
        element(
          'p',
          {},
          'It opens the disks when the TPM does not, on any machine. It is shown once: have paper ready.'
        ),
        name.label,
      ],
      'Make the key',
      async () =>
        showKey(
          sr,
          await run(sr.sr_uuid, 'recovery-add', { name: name.input.value }),
          content,
          close
        ),
      () => close(false)
    )
    content.replaceChildren(form)
  })
}

function showKey(sr, made, content, close) {
  const typed = field('Type the key back', { required: true, autocapitalize: 'characters' })
  const sheet = element(
    'div',
    { className: 'sheet' },
    element('p', { className: 'key', ariaLabel: 'Recovery key' }, made.recovery_key),
    listOf({
      Name: made.name,
      SR: sr.name,
      UUID: sr.sr_uuid,
      Host: sr.host,
      Made: new Date().toISOString().slice(0, 10),
    }),
    element(
      'p',
      {},
      'To use it: luksext unlock on the host, or Unlock on the page Encrypted storage of Xen Orchestra.'
    )
  )
  const form = formOf(
    [
      element(
        'p',
        {},
        'Print it or write it down, off this host. It counts only when somebody has typed it back.'
      ),
      button('Print', () => print()),
      typed.label,
    ],
    'Confirm',
    async () => {
      await run(sr.sr_uuid, 'recovery-confirm', { passphrase: typed.input.value })
      close(true)
    },
    // The key is there, though unconfirmed: the status shows it.
    () => close(true)
  )
  content.replaceChildren(sheet, form)
}

const listOf = terms =>
  element(
    'dl',
    {},
    ...Object.entries(terms).flatMap(([term, text]) => [
      element('dt', {}, term),
      element('dd', {}, text),
    ])
  )

/** Has a key typed back that was made before. */
export const confirmKey = sr =>
  askForKey(sr, {
    title: `Confirm a recovery key of ${sr.name}`,
    help: 'Type the key from its paper.',
    action: 'Confirm',
    run: passphrase => run(sr.sr_uuid, 'recovery-confirm', { passphrase }),
  })

/** Asks for a recovery key and runs an action with it. False if given up. */
export function askForKey(sr, { title, help, action, optional = false, run }) {
  return dialog(title, (content, close) => {
    const typed = field(optional ? 'Recovery key (optional)' : 'Recovery key', {
      required: !optional,
    })
    const act = async () => {
      await run(typed.input.value)
      close(true)
    }
    content.replaceChildren(
      formOf([element('p', {}, help), typed.label], action, act, () => close(false))
    )
  })
}

/** Opens the modal dialog; `fill` puts its content there. Resolves to what `close` is called with. */
function dialog(title, fill) {
  const box = byId('dialog')
  const content = element('div')
  box.replaceChildren(element('h2', { id: 'dialog-title' }, title), content)
  return new Promise(resolve => {
    let outcome = false
    const close = value => {
      outcome = value
      box.replaceChildren()
      box.close()
    }
    box.onclose = () => {
      box.replaceChildren()
      resolve(outcome)
    }
    // Escape is the same as the button.
    box.oncancel = event => {
      event.preventDefault()
      box.querySelector('.close').click()
    }
    fill(content, close)
    box.showModal()
  })
}

function formOf(children, action, run, cancel) {
  const outcome = element('div', { role: 'alert' })
  const submit = element('button', { className: 'primary' }, action)
  const form = element(
    'form',
    { className: 'no-print' },
    children,
    outcome,
    element('p', { className: 'buttons' }, submit, button('Close', cancel, { className: 'close' }))
  )
  form.addEventListener('submit', event => {
    event.preventDefault()
    return onlyOnce(submit, () => attempt(run, outcome))
  })
  return form
}

async function attempt(run, outcome) {
  outcome.replaceChildren()
  try {
    await run()
  } catch (error) {
    outcome.replaceChildren(note('bad', error.message))
  }
}

function field(text, properties) {
  const input = element('input', { autocomplete: 'off', spellcheck: false, ...properties })
  return { input, label: element('label', {}, text, input) }
}
