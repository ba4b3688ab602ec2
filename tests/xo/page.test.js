// SPDX-License-Identifier: LGPL-2.1-only
'use strict'

/**
 * The page as an administrator meets it, in headless Chromium. With SCREENSHOTS=<folder> the
 * pictures of the documentation are made, too.
 */

const assert = require('node:assert/strict')
const path = require('node:path')
const { after, afterEach, before, beforeEach, describe, it } = require('node:test')
const { chromium } = require('playwright-core')

const PLUGIN = path.join(__dirname, '..', '..', 'xo-server-luksext')
const plugin = require(PLUGIN)
const { StubXo } = require('./stub_xo')
const { NEW_SR, RECOVERY_KEY, SR_BETA, SampleXapi, objects, poolStatus } = require('./sample')

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

let all, browser, complaints, origin, page, requests, xapi, xo

before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: FLAGS,
  })
})

after(() => browser.close())

beforeEach(async () => {
  xapi = new SampleXapi()
  all = objects()
  xo = new StubXo(all, xapi)
  const instance = plugin.default({ xo })
  instance.configure({ staleHours: 24 }, { loaded: false })
  instance.load()
  origin = await xo.listen({ '/luksext': path.join(PLUGIN, 'page') })
  await open()
})

afterEach(async () => {
  await page.context().close()
  xo.close()
  assert.deepEqual(complaints, [])
})

/** A new tab of a user who is signed in. */
async function open({ user = 'admin', colorScheme = 'light', hash = '' } = {}) {
  await page?.context().close()
  const context = await browser.newContext({ colorScheme, viewport: { width: 1400, height: 720 } })
  await context.addCookies([{ name: 'token', value: user, url: origin }])
  page = await context.newPage()
  page.setDefaultTimeout(5000)
  complaints = []
  requests = []
  // What the browser says of the page: scripts that fail, and what the site's policy forbids.
  page.on('pageerror', error => complaints.push(error.message))
  page.on(
    'console',
    message => /Content Security/.test(message.text()) && complaints.push(message.text())
  )
  page.on('request', request => requests.push(request.url()))
  await page.goto(`${origin}/luksext/${hash}`)
}

const row = host => page.getByRole('row').filter({ hasText: host })
const dialog = () => page.getByRole('dialog')

/** Makes a recovery key for the SR that has none. */
async function makeKey() {
  await row('xcp-beta').getByRole('button', { name: 'Make a recovery key…' }).click()
  await dialog().getByLabel('Name of the key').fill('paper')
  await dialog().getByRole('button', { name: 'Make the key' }).click()
  await dialog().getByText(RECOVERY_KEY).waitFor()
}

async function picture(name, options) {
  if (process.env.SCREENSHOTS !== undefined) {
    await page.screenshot({ path: path.join(process.env.SCREENSHOTS, `${name}.png`), ...options })
  }
}

describe('status', () => {
  it('counts what needs attention, and names what could not be asked', async () => {
    await page.getByText('2 encrypted SRs · 1 needs attention · 1 could not be asked').waitFor()
    assert.match(await row('xcp-gamma').innerText(), /not asked.*It is down/s)
    await page.getByText('Local and not encrypted: scratch on xcp-beta.').waitFor()
    await picture('xo-status')
  })

  it('shows what is stale beside what cures it', async () => {
    const stale = row('xcp-beta')
    await stale.getByText('LUKS-W001 no recovery key').waitFor()
    await stale.getByText('the last proof of keyslot 0 of /dev/nvme0n1 is 51 hours old').waitFor()
    await stale.getByRole('button', { name: 'Make a recovery key…' }).waitFor()
    assert.match(await row('xcp-alpha').innerText(), /nothing/)
  })

  it('tells where an alert is cured that is not cured here', async () => {
    const status = poolStatus()
    status.hosts[1].srs[0].alerts = ['LUKS-W001', 'LUKS-W008', 'LUKS-W011']
    xapi.answers = { 'pool-status': () => status }
    await page.getByRole('button', { name: 'Refresh' }).click()
    await row('xcp-beta').getByText('LUKS-W008 disks differ in their keys').waitFor()
    assert.deepEqual(await row('xcp-beta').getByText('luksext explain').allInnerTexts(), [
      'luksext explain LUKS-W008',
    ])
  })

  it('says that the SR type is not registered, and keeps what there is', async () => {
    delete all.sm
    await page.getByRole('button', { name: 'Refresh' }).click()
    await page.getByText('1 could not be asked · SR type not registered in Paris').waitFor()
    await page.getByText('Run luksext doctor on each host').waitFor()
    await row('xcp-alpha').waitFor()
  })

  it('proves a binding', async () => {
    const asked = page.waitForResponse(response => response.url().endsWith('/actions/prove'))
    await row('xcp-beta').getByRole('button', { name: 'Prove now' }).click()
    assert.ok((await asked).ok())
    assert.deepEqual(xapi.calls.find(([, , , fn]) => fn === 'prove')[4], { 'sr-uuid': SR_BETA })
  })

  it('shows a refusal where it was asked for', async () => {
    xapi.failing.prove = ['SR_BACKEND_FAILURE_6233', '', 'The TPM is in lockout.', '']
    const asked = row('xcp-beta')
    await asked.getByRole('button', { name: 'Prove now' }).click()
    await asked.getByText('The TPM is in lockout. (SR_BACKEND_FAILURE_6233)').waitFor()
  })

  it('shows a name as text, whatever is in it', async () => {
    const status = poolStatus()
    status.hosts[0].srs[0].name = '<img src=x onerror=alert(1)>'
    xapi.answers = { 'pool-status': () => status }
    await page.getByRole('button', { name: 'Refresh' }).click()
    await page.getByRole('link', { name: '<img src=x onerror=alert(1)>' }).waitFor()
    assert.equal(await page.locator('img').count(), 0)
  })

  it('renews the binding that failed, of several, on whichever disk', async () => {
    const status = poolStatus()
    const [sr] = status.hosts[1].srs
    sr.alerts = ['LUKS-W003']
    const [disk] = sr.disks
    const [{ proof }] = disk.slots
    const failed = { ok: false, code: 6234, text: 'The TPM refuses.', at: proof.at }
    sr.disks = [proof, failed].map(proof => ({
      ...disk,
      slots: [...disk.slots, { slot: 3, role: 'binding', pin: 'tang', policy: [], proof }],
    }))
    xapi.answers = { 'pool-status': () => status }
    await page.getByRole('button', { name: 'Refresh' }).click()
    await row('xcp-beta').getByRole('button', { name: 'Renew the binding…' }).click()
    await dialog().getByRole('button', { name: 'Renew' }).click()
    await dialog().waitFor({ state: 'hidden' })
    assert.deepEqual(xapi.calls.find(([, , , fn]) => fn === 'rebind')[4], {
      slot: '3',
      'sr-uuid': SR_BETA,
    })
  })

  it('tells that the plugin is not loaded', async () => {
    xo.routes = []
    await page.getByRole('button', { name: 'Refresh' }).click()
    await page.getByText('The plugin luksext is not loaded').waitFor()
  })

  it('tells another user that it is for administrators', async () => {
    await open({ user: 'somebody' })
    await page.getByText('This page is for administrators').waitFor()
  })

  it('is readable in the dark', async () => {
    await open({ colorScheme: 'dark' })
    await row('xcp-beta').waitFor()
    assert.equal(
      await page.evaluate(() => getComputedStyle(document.body).backgroundColor),
      'rgb(20, 20, 30)'
    )
    await picture('xo-status-dark')
  })
})

describe('recovery key', () => {
  it('is shown once, and typed back', async () => {
    await makeKey()
    await picture('xo-recovery-key')
    await dialog().getByLabel('Type the key back').fill(RECOVERY_KEY.toLowerCase())
    await dialog().getByRole('button', { name: 'Confirm' }).click()
    await dialog().waitFor({ state: 'hidden' })
    const { key } = xapi.calls.find(([, , , fn]) => fn === 'recovery-confirm')[4]
    assert.equal(key, RECOVERY_KEY.toLowerCase())
  })

  it('is nowhere once the dialog is closed, however it is closed', async () => {
    for (const close of [
      () => dialog().getByRole('button', { name: 'Close' }).click(),
      () => page.keyboard.press('Escape'),
    ]) {
      await makeKey()
      await close()
      await dialog().waitFor({ state: 'hidden' })
      assert.ok(!(await page.content()).includes(RECOVERY_KEY))
    }
    assert.ok(!requests.some(url => url.includes(RECOVERY_KEY)))
    assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length), 0)
  })

  it('is alone on paper, with what it is of', async () => {
    await makeKey()
    await page.emulateMedia({ media: 'print' })
    assert.ok(await page.getByText(RECOVERY_KEY).isVisible())
    assert.ok(await page.getByText(SR_BETA).isVisible())
    assert.ok(!(await page.locator('header').isVisible()))
    assert.ok(!(await page.getByLabel('Type the key back').isVisible()))
  })

  it('stays while a mistyped copy of it is refused', async () => {
    xapi.failing['recovery-confirm'] = [
      'SR_BACKEND_FAILURE_6250',
      '',
      'This is no recovery key.',
      '',
    ]
    await makeKey()
    await dialog().getByLabel('Type the key back').fill('nonsense')
    await dialog().getByRole('button', { name: 'Confirm' }).click()
    await dialog().getByText('This is no recovery key.').waitFor()
    await dialog().getByText(RECOVERY_KEY).waitFor()
  })

  it('unlocks an SR that its TPM does not open', async () => {
    const status = poolStatus()
    status.hosts[1].srs[0].attached = false
    xapi.answers = { 'pool-status': () => status }
    await page.getByRole('button', { name: 'Refresh' }).click()
    await row('xcp-beta').getByText('disconnected').waitFor()
    await row('xcp-beta').getByRole('button', { name: 'Unlock…' }).click()
    await dialog().getByLabel('Recovery key').fill(RECOVERY_KEY)
    await dialog().getByRole('button', { name: 'Unlock' }).click()
    await dialog().waitFor({ state: 'hidden' })
    assert.deepEqual(
      xapi.calls.find(([method]) => method === 'Async.PBD.plug'),
      ['Async.PBD.plug', 'OpaqueRef:pbd-beta']
    )
  })
})

describe('creation', () => {
  beforeEach(async () => {
    await page.getByRole('link', { name: 'New encrypted SR' }).click()
    await page.getByLabel('/dev/sdb').waitFor()
  })

  const submit = () => page.getByRole('button', { name: 'Create', exact: true }).click()
  const created = () => xapi.calls.find(([method]) => method === 'SR_create')?.[1]

  it('offers free disks only, and names what it erases', async () => {
    assert.deepEqual(await page.locator('#disks code').allInnerTexts(), ['/dev/sdb', '/dev/sdc'])
    await page.getByLabel('/dev/sdb').check()
    await page.getByLabel('/dev/sdc').check()
    await page.getByText('Erase /dev/sdb and /dev/sdc of xcp-alpha (Paris).').waitFor()
    await page.setViewportSize({ width: 800, height: 720 })
    await picture('xo-create', { fullPage: true })
  })

  it('makes the SR and offers a recovery key at once', async () => {
    await page.getByLabel('/dev/sdb').check()
    await page
      .getByLabel('Opens by itself with')
      .selectOption({ label: 'the host’s TPM, Secure Boot unchanged (PCR 7)' })
    await page.locator('#erase').check()
    await submit()
    await page.getByText('Local encrypted is there.').waitFor()
    assert.deepEqual(created().device_config, {
      device: '/dev/sdb',
      pin: 'tpm2',
      'pin-config': '{"pcr_ids":"7"}',
      discard: 'false',
      force: 'false',
    })
    assert.equal(
      await page.getByRole('link', { name: 'Show it' }).getAttribute('href'),
      `/v5/#/srs/${NEW_SR}`
    )
    await page.getByRole('button', { name: 'Make a recovery key…' }).click()
    await dialog().getByText('Recovery key of Local encrypted').waitFor()
  })

  it('creates nothing unless the erasure is agreed to', async () => {
    await page.getByLabel('/dev/sdb').check()
    await submit()
    assert.equal(created(), undefined)
  })

  it('asks again when the choice has changed', async () => {
    await page.getByLabel('/dev/sdb').check()
    await page.locator('#erase').check()
    await page.getByLabel('/dev/sdc').check()
    assert.ok(!(await page.locator('#erase').isChecked()))
    await page.locator('#erase').check()
    await page.getByLabel('Host').selectOption({ label: 'xcp-beta (Paris)' })
    await page.getByText('Choose a disk first.').waitFor()
    assert.ok(!(await page.locator('#erase').isChecked()))
  })

  it('takes a device by its name, and a pin of one’s own', async () => {
    await page.getByLabel('Another device').fill('/dev/disk/by-id/wwn-0x5000')
    await page.getByLabel('Opens by itself with').selectOption({ label: 'a tang server' })
    await page.getByLabel('Its configuration').fill('{"url":"http://tang","thp":"x"}')
    await page.locator('#erase').check()
    await submit()
    await page.getByText('is there.').waitFor()
    const { device, pin, 'pin-config': config } = created().device_config
    assert.deepEqual(
      [device, pin, config],
      ['/dev/disk/by-id/wwn-0x5000', 'tang', '{"url":"http://tang","thp":"x"}']
    )
  })

  it('shows why the driver refuses', async () => {
    xapi.failing['SR.create'] = [
      'SR_BACKEND_FAILURE_6213',
      '',
      '/dev/sdb is not empty: it carries an ext4 filesystem.',
      '',
    ]
    await page.getByLabel('/dev/sdb').check()
    await page.locator('#erase').check()
    await submit()
    await page.getByText('it carries an ext4 filesystem. (SR_BACKEND_FAILURE_6213)').waitFor()
    assert.ok(await page.getByRole('button', { name: 'Create', exact: true }).isEnabled())
  })

  it('says that a host has no disk to give, and goes on with another', async () => {
    xapi.failing.list_block_devices = ['XENAPI_MISSING_PLUGIN', 'lsblk.py']
    await page.getByLabel('Host').selectOption({ label: 'xcp-beta (Paris)' })
    await page.getByText('The host has no plugin lsblk.py').waitFor()
  })
})

describe('for everybody', () => {
  it('has a label on every control, and a name on every button', async () => {
    for (const hash of ['#status', '#new']) {
      await open({ hash })
      await page
        .getByText(hash === '#new' ? '/dev/sdb' : 'xcp-beta')
        .first()
        .waitFor()
      const nameless = await page.evaluate(() =>
        Array.from(document.querySelectorAll('input, select, textarea, button'))
          .filter(control => !control.labels?.length && !control.textContent.trim())
          .map(control => control.outerHTML)
      )
      assert.deepEqual(nameless, [])
    }
  })

  it('can be read in both colour schemes: contrast of 4.5 to 1 for all text', async () => {
    for (const colorScheme of ['light', 'dark']) {
      for (const hash of ['#status', '#new']) {
        await open({ colorScheme, hash })
        await page
          .getByText(hash === '#new' ? '/dev/sdb' : 'xcp-beta')
          .first()
          .waitFor()
        assert.deepEqual(await page.evaluate(tooFaint), [], `${colorScheme} ${hash}`)
      }
    }
  })

  it('can be read in both colour schemes: the dialog', async () => {
    for (const colorScheme of ['light', 'dark']) {
      await open({ colorScheme })
      await makeKey()
      assert.deepEqual(await page.evaluate(tooFaint), [], colorScheme)
    }
  })

  it('is used by the keyboard: the dialog keeps the focus and gives it back', async () => {
    const opener = row('xcp-beta').getByRole('button', { name: 'Make a recovery key…' })
    await opener.focus()
    await page.keyboard.press('Enter')
    await dialog().waitFor()
    assert.ok(
      await page.evaluate(() => document.getElementById('dialog').contains(document.activeElement))
    )
    await page.keyboard.press('Escape')
    await dialog().waitFor({ state: 'hidden' })
    await page.waitForFunction(() => document.activeElement.textContent === 'Make a recovery key…')
  })
})

/** In the page: visible texts whose contrast is below WCAG 2.2's 4.5 to 1 (1.4.3). */
function tooFaint() {
  const channels = color => color.match(/[\d.]+/g).map(Number)
  const luminance = color => {
    const [r, g, b] = channels(color).map(value => {
      const part = value / 255
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const backOf = element => {
    for (let at = element; at !== null; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor
      if (channels(color)[3] !== 0) {
        return color
      }
    }
    return 'rgb(255, 255, 255)'
  }
  const hasText = element =>
    Array.from(element.childNodes).some(node => node.nodeType === 3 && node.data.trim() !== '')
  return Array.from(document.querySelectorAll('body *'))
    .filter(element => element.checkVisibility() && hasText(element))
    .map(element => {
      const [a, b] = [luminance(getComputedStyle(element).color), luminance(backOf(element))]
      return {
        text: element.textContent.trim(),
        contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
      }
    })
    .filter(({ contrast }) => contrast < 4.5)
}
