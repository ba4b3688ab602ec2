// SPDX-License-Identifier: LGPL-2.1-only
/** The form for a new encrypted SR. */

import { get, post } from './api.js'
import { byId, bytes, button, element, note, onlyOnce } from './dom.js'
import { addRecoveryKey } from './recovery.js'

/** Ways to open without anybody present. Without `config`, the user writes it. */
const POLICIES = [
  {
    label: 'the host’s TPM',
    pin: 'tpm2',
    config: '',
    help: 'Opens in this host. A disk that leaves it stays closed.',
  },
  {
    label: 'the host’s TPM, Secure Boot unchanged (PCR 7)',
    pin: 'tpm2',
    config: '{"pcr_ids":"7"}',
    help: 'Also stays closed when Secure Boot was turned off or its keys were changed.',
  },
  {
    label: 'a tang server',
    pin: 'tang',
    template: '{"url":"http://tang.example","thp":""}',
    help: 'Opens where the server is reachable: a stolen host stays closed.',
  },
  {
    label: 'the TPM and a tang server together',
    pin: 'sss',
    template: '{"t":2,"pins":{"tpm2":{},"tang":{"url":"http://tang.example","thp":""}}}',
    help: 'Both must agree.',
  },
  { label: 'another clevis pin', template: '{}', help: 'Any pin that is installed on the host.' },
]

const form = byId('create')
const chosen = () => POLICIES[byId('policy').value]

/** Asks for the hosts and shows the form. */
export async function showForm() {
  byId('outcome').replaceChildren()
  try {
    const hosts = await get('/hosts')
    byId('host').replaceChildren(...hosts.map(hostOf))
    await showDisks()
  } catch (error) {
    byId('outcome').replaceChildren(note('bad', error.message))
  }
}

function hostOf({ id, name, pool, ready }) {
  return element(
    'option',
    { value: id, disabled: !ready },
    `${name} (${pool})${ready ? '' : ' – SR type luksext not registered'}`
  )
}

async function showDisks() {
  const host = byId('host').value
  const list = byId('disks')
  list.replaceChildren('Looking for free disks…')
  if (host === '') {
    list.replaceChildren(note('bad', 'No running host is in a pool that has the SR type luksext.'))
    return
  }
  let shown
  try {
    const disks = await get(`/hosts/${encodeURIComponent(host)}/devices`)
    shown = disks.length ? disks.map(diskOf) : [note('', 'No disk is free.')]
  } catch (error) {
    shown = [note('bad', error.message)]
  }
  // Another host may have been chosen meanwhile.
  if (host === byId('host').value) {
    list.replaceChildren(...shown)
    showErased()
  }
}

function diskOf({ path, size }) {
  const box = element('input', { type: 'checkbox', name: 'disk', value: path })
  return element('label', { className: 'disk' }, box, element('code', {}, path), ` ${bytes(size)}`)
}

function devices() {
  const other = byId('other').value.trim()
  return [...new FormData(form).getAll('disk'), ...(other === '' ? [] : [other])]
}

/** What is erased is named where it is agreed to; a change takes the agreement back. */
function showErased() {
  const names = devices()
  const host = byId('host').selectedOptions[0]?.text ?? ''
  byId('erase').checked = false
  byId('erase').setCustomValidity(names.length ? '' : 'Choose a disk.')
  byId('erase-text').textContent = names.length
    ? `Erase ${names.join(' and ')} of ${host}. What is on them is lost.`
    : 'Choose a disk first.'
}

function showPolicy() {
  const { pin, help, template } = chosen()
  byId('policy-help').textContent = help
  byId('pin-field').hidden = pin !== undefined
  byId('pin').required = pin === undefined
  byId('pin-config-field').hidden = template === undefined
  byId('pinConfig').value = template ?? ''
}

function asked() {
  const given = Object.fromEntries(new FormData(form))
  const { pin, config } = chosen()
  return {
    host: given.host,
    nameLabel: given.nameLabel,
    nameDescription: given.nameDescription,
    devices: devices(),
    pin: pin ?? given.pin,
    pinConfig: config ?? given.pinConfig,
    luksVersion: given.luksVersion,
    cipher: given.cipher === 'aes-xts-plain64' ? '' : given.cipher,
    keySize: given.keySize,
    discard: given.discard === 'on',
    force: given.force === 'on',
  }
}

async function create() {
  const outcome = byId('outcome')
  const body = asked()
  const host = byId('host').selectedOptions[0].text
  outcome.replaceChildren(note('', 'The host formats the disks. This takes a minute or two.'))
  try {
    const { id } = await post('/srs', body)
    outcome.replaceChildren(created({ sr_uuid: id, name: body.nameLabel, host }))
    byId('erase').checked = false
  } catch (error) {
    outcome.replaceChildren(note('bad', error.message))
  }
}

function created(sr) {
  return note(
    'good',
    element('strong', {}, `${sr.name} is there.`),
    ' Nothing but the host opens it yet: make a recovery key now. ',
    button('Make a recovery key…', () => addRecoveryKey(sr), { className: 'primary' }),
    element('a', { href: `/v5/#/srs/${sr.sr_uuid}` }, 'Show it in Xen Orchestra')
  )
}

byId('policy').append(...POLICIES.map(({ label }, value) => element('option', { value }, label)))
byId('policy').addEventListener('change', showPolicy)
byId('host').addEventListener('change', showDisks)
for (const part of ['disks', 'other']) {
  byId(part).addEventListener('input', showErased)
}
form.addEventListener('submit', event => {
  event.preventDefault()
  return onlyOnce(form.querySelector('[type=submit]'), create)
})
showPolicy()
showErased()
