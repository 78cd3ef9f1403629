// Runs the programs of docs/clients.md against a server (SERVER) and the stand-in for a PDS (PDS): in Node in both ways, and in
// a browser, with a page of a third origin. The programs are written to DIRECTORY.

import assert from 'node:assert/strict'
import { execFile, execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { test as nodeTest } from 'node:test'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { build } from 'esbuild'
import { printsOf, typedInto, writePrograms } from './page.mjs'

const { PDS, SERVER, DIRECTORY } = process.env
writePrograms(DIRECTORY)
const program = (name) => import(pathToFileURL(path.join(DIRECTORY, name)))
const { call, directly, facts, service, signIn, throughPds } = await program('catbird.mjs')
const { Member } = await program('member.mjs')
const { Group } = await program('mls.mjs')

/** Returns the requests that the PDS has forwarded since the last call. */
const passed = async () => (await fetch(`${PDS}/passed`)).json()
const catbird = await service(SERVER)
const WAYS = { pds: throughPds, direct: directly }

/** Returns the path of the browser, under one of its names. */
const chromium = () =>
  execFileSync('sh', ['-c', 'command -v chromium || command -v chromium-browser || command -v google-chrome'], { encoding: 'utf8' }).trim()

/** What hangs has failed. */
const test = (name, body) => nodeTest(name, { timeout: 60_000 }, body)

let people = 0
async function member(way) {
  const agent = await signIn(PDS, `somebody-${process.pid}-${people++}.test`, 'password')
  const someone = new Member(WAYS[way](agent, catbird), agent.did)
  await someone.publish()
  return someone
}

/** Two people in a conversation, of whom the second has not heard of a third who was added since. */
async function behind(way) {
  const [alice, bob, carol, dave] = await Promise.all(Array.from({ length: 4 }, () => member(way)))
  await alice.create('Birds')
  await alice.add(bob.did)
  await bob.join(alice.convoId)
  await alice.add(carol.did)
  await passed()
  return { alice, bob, dave }
}

for (const way of Object.keys(WAYS)) {
  test(`the conversation of the page, ${way}`, async () => {
    // Dave's account has another name, since his is taken.
    const dave = { DAVE: `dave-${way}.test`, DAVE_PASSWORD: 'his own' }
    await signIn(PDS, dave.DAVE, dave.DAVE_PASSWORD)
    await signIn(PDS, 'dave.test', 'of somebody else')
    await passed()
    // As on the page, for one of its ways.
    const lines = typedInto(3).replaceAll('/tmp/clients', DIRECTORY).split('\n')
    const typed = lines.filter((line) => !line.startsWith('WAY=') || line.startsWith(`WAY=${way} `)).join('\n')
    const options = { cwd: fileURLToPath(new URL('../..', import.meta.url)), env: { ...process.env, ...dave }, timeout: 60_000 }
    const { stdout } = await promisify(execFile)('sh', ['-ec', typed], options)
    assert.equal(stdout, printsOf('talk.mjs'))
    assert.equal((await passed()).length > 0, way === 'pds', 'it goes the way that it says')
  })

  test(`a client that lost an epoch retries with only the reply, ${way}`, async () => {
    const { bob, dave } = await behind(way)
    const asked = []
    const { call: ask } = bob.client
    bob.client.call = (nsid, ...rest) => {
      asked.push(nsid.split('.').pop())
      return ask.call(bob.client, nsid, ...rest)
    }
    await bob.add(dave.did)
    assert.deepEqual(asked, ['claimKeyPackages', 'addMembers', 'addMembers'])
    assert.equal(bob.group.epoch, 3)
    if (way === 'pds') {
      const statuses = (await passed()).map(({ method, status }) => `${method} ${status}`)
      assert.deepEqual(statuses, ['claimKeyPackages 200', 'addMembers 200', 'addMembers 200'])
    }
    await dave.join(bob.convoId)
    assert.equal(dave.group.epoch, 3)
  })

  test(`an error's name and message are enough to catch up with one more request, ${way}`, async () => {
    const { bob } = await behind(way)
    const send = async () => {
      const ciphertext = await bob.group.encrypt('late')
      return call(bob.client, 'sendMessage', { convoId: bob.convoId, ciphertext, epoch: bob.group.epoch })
    }
    const lost = await send().catch((error) => error)
    // The official client's error for a 409, in both ways.
    assert.deepEqual([lost.error, lost.status], ['EpochMismatch', 400])
    const { serverEpoch, reason, moreMissing, recovery, requestId } = facts(lost.message)
    assert.deepEqual({ serverEpoch, reason, moreMissing, recovery }, {
      serverEpoch: '2', reason: 'stale', moreMissing: 'false', recovery: 'catchUpThenRebase',
    })
    assert.match(requestId, /^[0-9A-Z]{26}$/)
    const range = { convoId: bob.convoId, fromEpoch: bob.group.epoch + 1 }
    for (const { commitData } of (await call(bob.client, 'getCommits', range)).commits) await bob.group.take(commitData)
    assert.equal((await send()).epoch, 2)
  })

  test(`a client that merged a commit that was never accepted gets an error of another name, ${way}`, async () => {
    const { alice, dave } = await behind(way)
    const { keyPackages } = await call(alice.client, 'getKeyPackages', { dids: [dave.did] })
    const { won } = await alice.group.add([Buffer.from(keyPackages[0].keyPackage, 'base64')])
    won()
    const input = { convoId: alice.convoId, ciphertext: await alice.group.encrypt('early'), epoch: alice.group.epoch }
    const lost = await call(alice.client, 'sendMessage', input).catch((error) => error)
    assert.deepEqual([lost.error, facts(lost.message).recovery, facts(lost.message).reason], ['EpochAhead', 'rejoin', 'future'])
    const told = await call(alice.client, 'sendMessage', { ...input, conflict: 'result' })
    assert.deepEqual([told.$type, told.error], ['blue.catbird.mls.sendMessage#stale', 'EpochAhead'])
  })

  test(`a client that must wait learns how long, and then succeeds, ${way}`, async () => {
    // One member sees the refusal, and one retries.
    const [seen, patient] = await Promise.all(
      ['seen', 'patient'].map(async (name) => {
        const agent = await signIn(PDS, `late-${name}-${way}.test`, 'password')
        return WAYS[way](agent, catbird)
      }),
    )
    const refusal = await seen.call('blue.catbird.mls.getConvos').catch((error) => error)
    assert.deepEqual([refusal.error, refusal.status], ['IdentityUnavailable', 503])
    const { recovery, retryAfterMs } = facts(refusal.message)
    assert.equal(recovery, 'retrySame')
    assert.equal(Number(refusal.headers['retry-after']), Math.ceil(retryAfterMs / 1000))
    assert.deepEqual((await call(patient, 'getConvos', {})).conversations, [])
  })

  test(`a reply is valid whether or not a result was asked for, ${way}`, async () => {
    const alice = await member(way)
    await alice.create('Birds')
    const message = async () => ({ convoId: alice.convoId, ciphertext: await alice.group.encrypt('x'), epoch: 0 })
    // The official client checks every reply against the document.
    const plain = await call(alice.client, 'sendMessage', await message())
    assert.deepEqual(Object.keys(plain).sort(), ['epoch', 'messageId', 'receivedAt', 'seq'])
    const typed = await call(alice.client, 'sendMessage', { ...(await message()), conflict: 'result' })
    assert.equal(typed.$type, 'blue.catbird.mls.sendMessage#accepted')
  })
}

test('a reader skips what cannot be decrypted, warns, and loses nothing that was read', async (context) => {
  const { alice, bob, dave } = await behind('direct')
  await bob.read()
  const send = async (ciphertext) =>
    (await call(alice.client, 'sendMessage', { convoId: alice.convoId, ciphertext, epoch: alice.group.epoch })).seq
  const once = await alice.group.encrypt('once')
  const [first, second] = [await send(once), await send(once)]
  assert.equal(second, first + 1, 'without msgId it is two entries')
  const noise = await send(crypto.getRandomValues(new Uint8Array(100)))
  await alice.send('after')
  const { mock } = context.mock.method(console, 'warn', () => {})
  assert.deepEqual(await bob.read(), ['once', 'after'])
  const told = mock.calls.map(({ arguments: [sentence] }) => sentence)
  assert.deepEqual(told.map((sentence) => Number(sentence.match(/^entry (\d+), of did:plc:\w+, cannot/)[1])), [second, noise])

  // A commit that cannot be applied stops the log. Entries before it are returned, and the error repeats.
  await alice.send('before')
  const { keyPackages } = await call(alice.client, 'getKeyPackages', { dids: [dave.did] })
  const { commit, welcome } = await alice.group.add([Buffer.from(keyPackages[0].keyPackage, 'base64')])
  commit[commit.length - 1] ^= 1
  const [broken, invitation] = [commit, welcome].map((bytes) => Buffer.from(bytes).toString('base64'))
  await call(alice.client, 'addMembers', { convoId: alice.convoId, didList: [dave.did], commit: broken, welcomeMessage: invitation })
  assert.deepEqual(await bob.read(), ['before'])
  const stands = bob.seq
  for (let n = 0; n < 2; n++) await assert.rejects(bob.read())
  assert.equal(bob.seq, stands)
})

test('every accepted entry can be read through the PDS, which passes on ten megabytes', async () => {
  const alice = await member('pds')
  await alice.create('Birds')
  // The server accepts bytes that are not an MLS message as padded; only their size matters here.
  const send = async (bytes) => {
    const ciphertext = crypto.getRandomValues(new Uint8Array(65_536))
    const whole = new Uint8Array(bytes).map((_, n) => ciphertext[n % 65_536])
    return call(alice.client, 'sendMessage', { convoId: alice.convoId, ciphertext: whole, epoch: 0 })
  }
  await assert.rejects(send(7 * 1024 * 1024 + 1), { error: 'MessageTooLarge' })
  const sizes = [2, 7, 2, 2].map((megabytes) => megabytes * 1024 * 1024)
  for (const size of sizes) await send(size)
  const read = []
  for (let sinceSeq = 0; ; ) {
    const { messages, lastSeq } = await call(alice.client, 'getMessages', { convoId: alice.convoId, sinceSeq })
    read.push(...messages.map(({ ciphertext }) => ciphertext.length))
    sinceSeq = messages.at(-1).seq
    if (sinceSeq >= lastSeq) break
  }
  assert.deepEqual(read, sizes)
})

for (const encoding of ['identity', 'gzip']) {
  test(`a stream through the PDS is not delayed, and resumes from its cursor, ${encoding}`, async () => {
    const pds = await signIn(PDS, `listener-${encoding}.test`, 'password')
    const [alice, listener] = [await member('pds'), new Member(throughPds(pds, catbird), pds.did)]
    await listener.publish()
    const listen = async (cursor) => {
      const query = cursor ? `?cursor=${encodeURIComponent(cursor)}` : ''
      const headers = { 'atproto-proxy': `${catbird.did}#atproto_mls`, 'accept-encoding': encoding }
      const reply = await pds.sessionManager.fetchHandler(`/xrpc/blue.catbird.mls.streamConvoEvents${query}`, { headers })
      assert.equal(reply.status, 200)
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader()
      let text = ''
      /** The cursor of the next event of a type, or of the first sign of life. */
      const until = async (wanted) => {
        for (;;) {
          const end = text.indexOf('\n\n')
          if (end < 0) {
            const { value, done } = await reader.read()
            assert.ok(!done, `the stream ended before ${wanted}`)
            text += value
            continue
          }
          const fields = Object.fromEntries(text.slice(0, end).split('\n').map((line) => line.split(': ', 2)))
          text = text.slice(end + 2)
          if (fields.event === wanted) return fields.id
        }
      }
      return { until, stop: () => reader.cancel() }
    }
    const first = await listen()
    await first.until(undefined)
    await alice.create('Birds')
    await alice.add(listener.did)
    const cursor = await first.until('welcomeEvent')
    await first.stop()
    await alice.send('while nobody listens')
    const second = await listen(cursor)
    await second.until('messageEvent')
    await second.stop()
  })
}

test('the program of the page runs in a browser, on a page of another origin', async () => {
  await build({
    entryPoints: [path.join(DIRECTORY, 'browser.mjs')],
    outfile: path.join(DIRECTORY, 'browser.js'),
    bundle: true,
    format: 'esm',
    logLevel: 'warning',
  })
  // The page unchanged, with a script beside it that reports its content.
  const tell = `<script>
    const tell = (what) => fetch('/told', { method: 'POST', body: what })
    addEventListener('error', ({ message }) => tell('error: ' + message))
    addEventListener('unhandledrejection', ({ reason }) => tell('error: ' + reason))
    const log = document.querySelector('#log')
    new MutationObserver(() => tell(log.textContent)).observe(log, { childList: true })
  </script>`
  const page = fs.readFileSync(path.join(DIRECTORY, 'index.html'), 'utf8').replace('<script', `${tell}<script`)
  let told = ''
  let wake
  const enough = new Promise((resolve) => (wake = resolve))
  const origin = http.createServer(async (request, response) => {
    if (request.method === 'POST') {
      const chunks = []
      for await (const chunk of request) chunks.push(chunk)
      told = Buffer.concat(chunks).toString()
      if (told === printsOf('browser.mjs') || told.startsWith('error:')) wake()
      return response.end()
    }
    const isPage = request.url.startsWith('/index.html')
    response.setHeader('content-type', isPage ? 'text/html' : 'text/javascript')
    response.end(isPage ? page : fs.readFileSync(path.join(DIRECTORY, 'browser.js')))
  })
  await new Promise((resolve) => origin.listen(0, 'localhost', resolve))
  const bob = { bob: 'bob-in-a-browser.test', bobPassword: 'his own' }
  await signIn(PDS, bob.bob, bob.bobPassword)
  const query = new URLSearchParams({ pds: PDS, server: SERVER, ...bob })
  const address = `http://localhost:${origin.address().port}/index.html#${query}`
  const profile = path.join(DIRECTORY, 'profile')
  const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', `--user-data-dir=${profile}`]
  const browser = spawn(chromium(), [...flags, address], { stdio: 'ignore', detached: true })
  const late = setTimeout(wake, 60_000)
  await enough
  clearTimeout(late)
  // The browser has child processes.
  process.kill(-browser.pid, 'SIGKILL')
  origin.close()
  origin.closeAllConnections()
  assert.equal(told, printsOf('browser.mjs'))
})
