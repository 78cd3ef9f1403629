// A stand-in for a personal data server and a PLC directory. It signs accounts in, mints service tokens, publishes DID
// documents, and forwards requests to the service that the header atproto-proxy names, with the restrictions of the real one:
//
// - errors keep status, name, sentence and Retry-After, and nothing else; 500 becomes 502 UpstreamFailure;
// - only the headers named below pass in either direction;
// - compressible replies go through gzip, which holds back unflushed bytes, unless they are already compressed;
// - a reply may have 10 MiB, its head must arrive within 10 seconds, and its body may pause for 30.
//
// The first sign-in creates an account with that password. Every second account's key has the encoding from before Multikey,
// which development networks still use. The directory fails at the first request for a handle that starts with "late". The
// server listens at PORT, or at any port, prints its address, and records the requests that it forwards.

import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, randomUUID, sign } from 'node:crypto'
import http from 'node:http'
import zlib from 'node:zlib'
import { base58btc } from 'multiformats/bases/base58'

const MAX_REPLY_BYTES = 10 * 1024 * 1024
const HEAD_TIME_MS = 10_000
const BODY_PAUSE_MS = 30_000
const TOKEN_SECONDS = 60
const REQUEST_HEADERS = ['accept-language', 'atproto-accept-labelers', 'x-bsky-topics']
const BODY_HEADERS = ['content-type', 'content-encoding', 'content-length']
const REPLY_HEADERS = ['content-length', 'content-encoding', 'content-type', 'content-language']
const KEPT_ON_ERRORS = ['atproto-repo-rev', 'atproto-content-labelers', 'retry-after']
const COMPRESSIBLE = /json|text/
const COMPRESSED_FROM_BYTES = 1024

/** What was passed on: { method, status }, oldest first. */
const passed = []
const accounts = new Map()
const sessions = new Map()

class XrpcError extends Error {
  constructor(status, error, message, headers = {}) {
    super(message)
    Object.assign(this, { status, error, headers })
  }
}

/** An account with a key of its own, made when somebody signs in first. */
function account(handle, password) {
  if (!accounts.has(handle)) {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'secp256k1' })
    const { x, y } = publicKey.export({ format: 'jwk' })
    const [left, right] = [x, y].map((part) => Buffer.from(part, 'base64url'))
    // The bare point, under a type that names its curve; or the multicodec of compressed secp256k1 keys with the compressed point.
    const method = accounts.size % 2
      ? { type: 'EcdsaSecp256k1VerificationKey2019', key: [Buffer.from([4]), left, right] }
      : { type: 'Multikey', key: [Buffer.from([0xe7, 0x01, 2 + (right[31] & 1)]), left] }
    const key = { type: method.type, publicKeyMultibase: base58btc.encode(Buffer.concat(method.key)) }
    const name = createHash('sha256').update(handle).digest('hex').slice(0, 24).replace(/[0189]/g, 'x')
    const fails = handle.startsWith('late') ? 1 : 0
    accounts.set(handle, { did: `did:plc:${name}`, handle, password, privateKey, key, fails })
  }
  const found = accounts.get(handle)
  if (found.password !== password) throw new XrpcError(401, 'AuthenticationRequired', 'Invalid identifier or password')
  return found
}

function didDocument({ did, handle, key }) {
  return {
    '@context': ['https://www.w3.org/ns/did/v1'],
    id: did,
    alsoKnownAs: [`at://${handle}`],
    verificationMethod: [{ id: `${did}#atproto`, controller: did, ...key }],
    service: [{ id: '#atproto_pds', type: 'AtprotoPersonalDataServer', serviceEndpoint: here() }],
  }
}

/** Half of the order of secp256k1: of the two signatures of everything, AT Protocol takes the one whose s is not above it. */
const HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0n
const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n

function serviceToken({ did, privateKey }, aud, lxm) {
  const now = Math.floor(Date.now() / 1000)
  const claims = { iat: now, iss: did, aud, exp: now + TOKEN_SECONDS, lxm, jti: randomUUID().replaceAll('-', '') }
  const text = [{ typ: 'JWT', alg: 'ES256K' }, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
    .join('.')
  const signature = sign('sha256', Buffer.from(text), { key: privateKey, dsaEncoding: 'ieee-p1363' })
  const s = BigInt(`0x${signature.subarray(32).toString('hex')}`)
  if (s > HALF_ORDER) signature.write((ORDER - s).toString(16).padStart(64, '0'), 32, 'hex')
  return `${text}.${signature.toString('base64url')}`
}

function signedIn(request) {
  const found = sessions.get(request.headers.authorization?.replace(/^Bearer /, ''))
  if (!found) throw new XrpcError(401, 'AuthenticationRequired', 'Authentication Required')
  return found
}

async function body(request) {
  const chunks = []
  for await (const chunk of request) chunks.push(chunk)
  return JSON.parse(Buffer.concat(chunks))
}

function session(owner) {
  const token = randomUUID()
  sessions.set(token, owner)
  const { did, handle } = owner
  return { did, handle, accessJwt: token, refreshJwt: randomUUID(), didDoc: didDocument(owner), active: true }
}

/** The methods of its own. */
const OWN = {
  'com.atproto.server.createSession': async (request) => {
    const { identifier, password } = await body(request)
    return session(account(identifier, password))
  },
  'com.atproto.server.getServiceAuth': async (request, url) => {
    const [aud, lxm] = ['aud', 'lxm'].map((name) => url.searchParams.get(name))
    return { token: serviceToken(signedIn(request), aud, lxm) }
  },
}

/** Where a service is, from its DID document; only did:web, over plain HTTP as the real one does in development. */
async function endpoint(proxy) {
  const [did, fragment] = proxy.split('#')
  const host = did.match(/^did:web:([^:]+)$/)?.[1]
  if (!host || !fragment) throw new XrpcError(400, 'InvalidRequest', 'invalid proxy header format')
  const reply = await fetch(`http://${decodeURIComponent(host)}/.well-known/did.json`)
  const service = (await reply.json()).service.find(({ id }) => id === `#${fragment}`)
  if (!service) throw new XrpcError(400, 'InvalidRequest', 'could not resolve proxy did service url')
  return new URL(service.serviceEndpoint)
}

const pick = (headers, names) =>
  Object.fromEntries(names.filter((name) => headers[name] !== undefined).map((name) => [name, headers[name]]))

function unreachable(cause) {
  return new XrpcError(502, 'UpstreamFailure', `Upstream service unreachable`, {}, cause)
}

async function passOn(request, response, url, nsid) {
  const owner = signedIn(request)
  const proxy = request.headers['atproto-proxy']
  if (!proxy) throw new XrpcError(400, 'InvalidRequest', `No service configured for ${nsid}`)
  const origin = await endpoint(proxy)
  const hasBody = request.method === 'POST'
  const headers = {
    'accept-encoding': request.headers['accept-encoding'] ?? 'identity',
    ...pick(request.headers, REQUEST_HEADERS),
    ...(hasBody ? pick(request.headers, BODY_HEADERS) : {}),
    authorization: `Bearer ${serviceToken(owner, proxy, nsid)}`,
  }
  const options = { method: request.method, path: url.pathname + url.search, headers }
  const upstream = await new Promise((resolve, reject) => {
    const asking = http.request(origin, options, resolve)
    asking.setTimeout(HEAD_TIME_MS, () => asking.destroy(new Error('headers timeout')))
    asking.on('error', (cause) => reject(unreachable(cause)))
    if (hasBody) request.pipe(asking)
    else asking.end()
  })
  upstream.setTimeout(BODY_PAUSE_MS, () => upstream.destroy(new Error('body timeout')))
  passed.push({ method: nsid.split('.').pop(), status: upstream.statusCode })
  if (upstream.statusCode >= 400) throw await refusal(upstream)
  send(request, response, upstream.statusCode, pick(upstream.headers, [...REPLY_HEADERS, ...KEPT_ON_ERRORS]), upstream)
}

/** What is left of an error. */
async function refusal(upstream) {
  const chunks = []
  for await (const chunk of upstream) chunks.push(chunk)
  let told = {}
  try {
    told = JSON.parse(Buffer.concat(chunks))
  } catch {
    // A body that is not JSON has no error name.
  }
  const status = upstream.statusCode === 500 ? 502 : upstream.statusCode
  const error = typeof told.error === 'string' ? told.error : 'UpstreamFailure'
  const message = typeof told.message === 'string' ? told.message : error
  return new XrpcError(status, error, message, pick(upstream.headers, KEPT_ON_ERRORS))
}

/** A reply as a stream, of at most so many bytes, and through gzip where the real one has it. */
function send(request, response, status, headers, stream) {
  const length = headers['content-length']
  if (length > MAX_REPLY_BYTES) {
    stream.destroy()
    throw unreachable()
  }
  const compress =
    /\bgzip\b/.test(request.headers['accept-encoding'] ?? '') &&
    !headers['content-encoding'] &&
    COMPRESSIBLE.test(headers['content-type'] ?? '') &&
    !(length < COMPRESSED_FROM_BYTES)
  if (compress) {
    delete headers['content-length']
    Object.assign(headers, { 'content-encoding': 'gzip', vary: 'Accept-Encoding' })
  }
  response.writeHead(status, headers)
  const out = compress ? zlib.createGzip() : response
  if (compress) out.pipe(response)
  let bytes = 0
  stream.on('data', (chunk) => {
    bytes += chunk.length
    if (bytes > MAX_REPLY_BYTES) stream.destroy(new Error('too large'))
  })
  stream.on('error', () => response.destroy())
  response.on('close', () => stream.destroy())
  stream.pipe(out)
}

function json(request, response, status, value, headers = {}) {
  const bytes = Buffer.from(JSON.stringify(value))
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'content-length': bytes.length, ...headers })
  response.end(bytes)
}

async function answer(request, response) {
  const url = new URL(request.url, here())
  response.setHeader('access-control-allow-origin', '*')
  if (request.method === 'OPTIONS') {
    response.writeHead(204, {
      'access-control-allow-methods': 'GET,HEAD,PUT,PATCH,POST,DELETE',
      'access-control-allow-headers': request.headers['access-control-request-headers'] ?? '',
      'access-control-max-age': 86_400,
    })
    return response.end()
  }
  if (url.pathname === '/passed') return json(request, response, 200, passed.splice(0))
  const [, did] = url.pathname.match(/^\/(did:plc:.*)$/) ?? []
  if (did) {
    const owner = [...accounts.values()].find((one) => one.did === did)
    if (owner && owner.fails-- > 0) return json(request, response, 500, {})
    return owner ? json(request, response, 200, didDocument(owner)) : json(request, response, 404, {})
  }
  const [, nsid] = url.pathname.match(/^\/xrpc\/([^/]+)$/) ?? []
  if (!nsid) return json(request, response, 404, { error: 'NotFound', message: 'Not Found' })
  if (OWN[nsid]) return json(request, response, 200, await OWN[nsid](request, url))
  await passOn(request, response, url, nsid)
}

const server = http.createServer((request, response) => {
  answer(request, response).catch((error) => {
    if (response.headersSent) return response.destroy()
    const { status = 500, error: name = 'InternalServerError', message, headers = {} } = error
    if (status === 500) console.error(error)
    json(request, response, status, { error: name, message }, headers)
  })
})

const here = () => `http://localhost:${server.address().port}`
server.listen(process.env.PORT ?? 0, 'localhost', () => console.log(here()))
// It ends with the process that started it.
process.stdin.resume()
process.stdin.on('end', () => process.exit())
