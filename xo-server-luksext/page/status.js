// SPDX-License-Identifier: LGPL-2.1-only
/** The status page: each encrypted SR of each host, and what to do about what is wrong. */

import { get, run } from './api.js'
import { ago, bytes, byId, button, element, note } from './dom.js'
import { addRecoveryKey, askForKey, confirmKey } from './recovery.js'

const COLUMNS = [
  'SR',
  'Host',
  'State',
  'Disks',
  'Opens by itself with',
  'Recovery key',
  'Needs attention',
  'Actions',
]

/** What cures an alert from here: [label, what the button does with the SR]. */
const REMEDIES = {
  'LUKS-W001': ['Make a recovery key…', addRecoveryKey],
  'LUKS-W002': ['Confirm the key…', confirmKey],
  'LUKS-W003': ['Renew the binding…', renew],
  'LUKS-W004': ['Let one restart pass', sr => run(sr.sr_uuid, 'suspend')],
  'LUKS-W005': ['Back up the header', sr => run(sr.sr_uuid, 'header-backup')],
  'LUKS-W006': ['End the suspension', sr => run(sr.sr_uuid, 'resume')],
  'LUKS-W011': ['Prove now', prove],
}

const UNREGISTERED =
  'The SR type luksext is not registered in this pool: no encrypted SR can be connected, and no VDI ' +
  'in one be changed. A host without the package takes the type away whenever its XAPI starts. Run ' +
  'luksext doctor on each host: it says what is missing, and what to type.'

const RECOVERY = {
  confirmed: 'confirmed',
  unconfirmed: 'not confirmed',
  none: 'none',
  unknown: 'not known',
}

/** Asks all hosts and shows what they say. */
export async function showStatus() {
  byId('summary').textContent = 'Asking the hosts…'
  try {
    const pools = await get('/status')
    byId('pools').replaceChildren(...pools.map(poolOf))
    byId('summary').textContent = summaryOf(pools)
  } catch (error) {
    byId('pools').replaceChildren()
    byId('summary').textContent = error.message
  }
}

function summaryOf(pools) {
  const hosts = pools.flatMap(pool => pool.hosts ?? [])
  const srs = hosts.flatMap(host => host.srs ?? []).filter(sr => sr.encrypted)
  const silent = hosts.filter(host => host.error).length + pools.filter(pool => pool.error).length
  const wrong = srs.filter(sr => sr.attention.length > 0).length
  if (pools.length === 0) {
    return 'No pool has the SR type luksext: install the package on every host of a pool.'
  }
  return [
    `${srs.length} encrypted ${srs.length === 1 ? 'SR' : 'SRs'}`,
    wrong === 0 ? 'none needs attention' : `${wrong} need${wrong === 1 ? 's' : ''} attention`,
    ...(silent === 0 ? [] : [`${silent} could not be asked`]),
    ...pools.filter(pool => !pool.registered).map(pool => `SR type not registered in ${pool.name}`),
  ].join(' · ')
}

function poolOf(pool) {
  const title = element('h3', {}, pool.name)
  const unregistered = pool.registered ? undefined : note('bad', UNREGISTERED)
  if (pool.error) {
    return element('article', {}, title, unregistered, note('bad', pool.error))
  }
  const plain = pool.hosts.flatMap(host =>
    (host.srs ?? []).filter(isPlain).map(sr => `${sr.name} on ${host.host}`)
  )
  return element(
    'article',
    {},
    title,
    unregistered,
    element('div', { className: 'scroll' }, tableOf(pool)),
    plain.length
      ? element('p', { className: 'help' }, `Local and not encrypted: ${plain.join(', ')}.`)
      : undefined
  )
}

const isPlain = sr =>
  !sr.encrypted &&
  !sr.shared &&
  ['ext', 'lvm', 'xfs', 'zfs', 'file', 'largeblock'].includes(sr.type)

function tableOf(pool) {
  const head = element(
    'tr',
    {},
    COLUMNS.map(name => element('th', { scope: 'col' }, name))
  )
  const rows = pool.hosts.flatMap(host =>
    host.error ? [silentRow(host)] : host.srs.filter(sr => sr.encrypted).map(sr => rowOf(host, sr))
  )
  const caption = element('caption', {}, `Encrypted SRs of ${pool.name}`)
  return element('table', {}, caption, element('thead', {}, head), element('tbody', {}, rows))
}

function silentRow(host) {
  return element(
    'tr',
    { className: 'silent' },
    element('td', {}, '–'),
    element('td', {}, host.host),
    element('td', { colSpan: COLUMNS.length - 2 }, badge('bad', 'not asked'), ` ${host.error}`)
  )
}

function rowOf(host, sr) {
  const cells = [
    [element('a', { href: `/v5/#/srs/${sr.sr_uuid}` }, sr.name)],
    [host.host],
    [sr.attached ? badge('good', 'connected') : badge('bad', 'disconnected')],
    sr.disks.map(diskOf),
    sr.disks.flatMap(disk => slotsOf(disk, 'binding').map(bindingOf)),
    [
      badge(sr.recovery === 'confirmed' ? 'good' : 'bad', RECOVERY[sr.recovery] ?? sr.recovery),
      ...namesOf(sr),
    ],
    sr.attention.length
      ? [element('ul', {}, sr.attention.map(attentionOf))]
      : [badge('good', 'nothing')],
    actionsOf({ ...sr, host: host.host }),
  ]
  return element(
    'tr',
    {},
    cells.map(children => element('td', {}, children))
  )
}

const badge = (kind, text) => element('span', { className: `badge ${kind}` }, text)

function diskOf(disk) {
  if (disk.error) {
    return element('div', {}, badge('bad', 'unreadable'), ` ${disk.error.text}`)
  }
  const about = `${bytes(disk.size)}, LUKS${disk.luks_version}, ${disk.cipher}, ${disk.key_bits} bits`
  return element(
    'div',
    {},
    element('code', {}, disk.device),
    element('div', { className: 'help' }, about)
  )
}

function bindingOf({ pin, policy, proof }) {
  const pcrs = policy.map(({ pcr_ids }) => pcr_ids).filter(Boolean)
  const proved = !proof ? 'never proved' : `${proof.ok ? 'proved' : 'failed'} ${ago(proof.at)}`
  return element(
    'div',
    {},
    pcrs.length ? `${pin}, PCR ${pcrs.join(', ')}` : pin,
    element('div', { className: 'help' }, proof?.text ? `${proved}: ${proof.text}` : proved)
  )
}

/** The keyslots of a disk that have a role; none of one that cannot be read. */
const slotsOf = ({ slots = [] }, role) => slots.filter(slot => slot.role === role)

function namesOf(sr) {
  const names = sr.disks.flatMap(disk => slotsOf(disk, 'recovery').map(({ name }) => name))
  return Array.from(new Set(names), name => element('div', { className: 'help' }, name))
}

function attentionOf({ code, text }) {
  if (code === '') {
    return element('li', {}, text)
  }
  const howTo = ['On the host: ', element('code', {}, `luksext explain ${code}`)]
  const help = code in REMEDIES ? undefined : element('div', { className: 'help' }, howTo)
  return element('li', {}, element('code', {}, code), ` ${text}`, help)
}

function actionsOf(sr) {
  const outcome = element('div', { role: 'status' })
  const actions = new Map(sr.attention.map(({ code }) => REMEDIES[code]).filter(Boolean))
  if (sr.attached) {
    actions.set('Prove now', prove)
    actions.set('Make a recovery key…', addRecoveryKey)
  } else {
    actions.set('Unlock…', unlock)
  }
  const act = async run => {
    outcome.replaceChildren()
    try {
      if ((await run(sr)) !== false) {
        await showStatus()
        // The button that was pressed is gone with its table.
        byId('summary').focus()
      }
    } catch (error) {
      outcome.replaceChildren(note('bad', error.message))
    }
  }
  return [...Array.from(actions, ([label, run]) => button(label, () => act(run))), outcome]
}

async function prove(sr) {
  const { ok, proofs } = await run(sr.sr_uuid, 'prove')
  if (!ok) {
    throw new Error(
      proofs
        .filter(proof => !proof.ok)
        .map(proof => `${proof.device}: ${proof.sentence}`)
        .join(' ')
    )
  }
}

const unlock = sr =>
  askForKey(sr, {
    title: `Unlock ${sr.name}`,
    help: 'The disks are opened by a recovery key and the SR is connected. Renew the binding afterwards.',
    action: 'Unlock',
    run: passphrase => run(sr.sr_uuid, 'unlock', { passphrase }),
  })

function renew(sr) {
  const bindings = sr.disks.map(disk => slotsOf(disk, 'binding'))
  // The only one of a disk is meant whatever its number, which may be another on each disk.
  const failed = bindings.some(({ length }) => length > 1)
    ? bindings.flat().find(({ proof }) => proof && !proof.ok)
    : undefined
  return askForKey(sr, {
    title: `Renew the binding of ${sr.name}`,
    help: 'It is bound to the TPM as it is now. A recovery key is needed where no binding opens any more.',
    action: 'Renew',
    optional: true,
    run: passphrase =>
      run(sr.sr_uuid, 'rebind', { slot: failed && String(failed.slot), passphrase }),
  })
}
