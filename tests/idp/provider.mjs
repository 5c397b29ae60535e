// The authorization server of the tests: `oidc-provider`, told of the gate, of its callers and of the systems
// behind it. It ends when its standard input does, so that no test leaves it behind.
//
//   PORT=18600 node provider.mjs
//   GET /token-requests   what its token endpoint was asked: [{grant, client, resource}]
//   GET /asked            how often each of its addresses was asked
//   POST /be              makes it behave otherwise from now on; see `now`

import { generateKeyPairSync } from 'node:crypto';
import { json } from 'node:stream/consumers';
import { createLocalJWKSet, jwtVerify } from 'jose';
import { Provider, errors } from 'oidc-provider';

const PORT = Number(process.env.PORT);
const ISSUER = `http://127.0.0.1:${PORT}`;
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';

const now = {
  seconds: 300, // how long tokens for a gate live
  opaque: false, // whether those are opaque
  named: false, // whether an opaque token of a client's own names the client as its subject
  ahead: 0, // how far the clock runs ahead that signed tokens are dated by
  signing: 0, // which of the keys signs
  published: [0], // which are published
  scope: '', // what a gate's scopes are; all when empty
  down: false, // whether every answer is an error
};

// What tokens are for. A gate is found at any port of this machine; the desk is a system behind it.
const GATE = /^http:\/\/127\.0\.0\.1:\d+\/mcp$/;
const SYSTEMS = {
  'https://desk.example.com/': { scope: 'desk:read desk:write' },
  'https://opaque.example.com/': { scope: 'desk:read', accessTokenFormat: 'opaque' },
  'https://astray.example.com/': { scope: 'desk:read', audience: 'https://other.example.com/' },
  'https://brief.example.com/': { scope: 'desk:read', accessTokenTTL: 4 },
};

const SCOPES = 'gate:use notes:read notes:write notes:remove';
const pairs = [0, 1, 2, 3].map(() => generateKeyPairSync('ec', { namedCurve: 'P-256' }));
const named = (key, n) => ({ ...key.export({ format: 'jwk' }), kid: `tests-${n}`, use: 'sig', alg: 'ES256' });
const all = createLocalJWKSet({ keys: pairs.map(({ publicKey }, n) => named(publicKey, n)) });

// A program on somebody's machine: it can keep no secret. It was registered, registers itself, or is known by
// the document at its id.
const IDE = {
  redirect_uris: ['http://127.0.0.1/callback'],
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  token_endpoint_auth_method: 'none',
  application_type: 'native',
};
const DOCUMENT = { ...IDE, client_id: 'https://ide.example.com/client.json', client_name: 'An IDE' };

function dated(payload) {
  if (now.ahead) Object.assign(payload, { nbf: payload.iat + now.ahead, iat: payload.iat + now.ahead, exp: payload.exp + now.ahead });
}

function client(client_id, client_secret, scope, ...grant_types) {
  return { client_id, client_secret, scope, grant_types, redirect_uris: [], response_types: [] };
}

function systemAt(resource) {
  const gate = { scope: now.scope || SCOPES, accessTokenTTL: now.seconds, accessTokenFormat: now.opaque ? 'opaque' : 'jwt' };
  const told = GATE.test(resource) ? gate : SYSTEMS[resource];
  if (!told) throw new errors.InvalidTarget();
  const sign = { alg: 'ES256', kid: `tests-${now.signing}` };
  return { audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: 300, jwt: { sign }, ...told };
}

async function subjectOf(token) {
  try {
    return (await jwtVerify(token, all, { issuer: ISSUER, typ: 'at+jwt' })).payload;
  } catch {
    throw new errors.InvalidGrant('the subject token is not one of ours');
  }
}

// RFC 8693, section 2, as delegation: the caller stays the subject, and the gate is named as who acts.
async function exchange(ctx) {
  const { client: gate, params } = ctx.oidc;
  if (params.subject_token_type !== ACCESS_TOKEN) throw new errors.InvalidRequest('a subject token of that type');
  const caller = await subjectOf(params.subject_token);
  const system = new provider.ResourceServer(params.resource, systemAt(params.resource));
  const known = gate.scope.split(' ').filter((word) => system.scope.split(' ').includes(word));
  const asked = params.scope ? params.scope.split(' ') : known;
  if (!asked.every((word) => known.includes(word))) throw new errors.InvalidScope('not for this client', params.scope);
  const token = new provider.AccessToken({ accountId: caller.sub, client: gate, gty: EXCHANGE, scope: asked.join(' ') });
  token.resourceServer = system;
  token.extra = { act: { sub: gate.clientId } };
  ctx.oidc.entity('AccessToken', token);
  const access_token = await token.save();
  ctx.body = {
    access_token, issued_token_type: ACCESS_TOKEN, token_type: 'Bearer', expires_in: token.expiration, scope: token.scope,
  };
}

const provider = new Provider(ISSUER, {
  jwks: { keys: pairs.map(({ privateKey }, n) => named(privateKey, n)) },
  clients: [
    client('mia', 'mia-secret', SCOPES, 'client_credentials'),
    client('rob', 'rob-secret', SCOPES, 'client_credentials'),
    client('gate', 'gate-secret', 'desk:read desk:write', 'client_credentials', EXCHANGE),
    client('gate at/work', 'p+s %w:o&r=d', 'desk:read', 'client_credentials'),
    { client_id: 'ide', ...IDE },
  ],
  clientDefaults: { id_token_signed_response_alg: 'ES256' },
  scopes: ['openid', 'offline_access', ...SCOPES.split(' '), 'desk:read', 'desk:write'],
  extraTokenClaims: (_ctx, token) => ({
    roles: ['member'], ...(now.named && !token.accountId ? { sub: token.clientId } : {}), ...token.extra,
  }),
  formats: { customizers: { jwt: (_ctx, _token, { payload }) => dated(payload) } },
  fetch: async (url) => (String(url) === DOCUMENT.client_id ? Response.json(DOCUMENT) : Response.error()),
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    introspection: { enabled: true, allowedPolicy: (_ctx, { clientId }) => clientId.startsWith('gate') },
    revocation: { enabled: true },
    registration: { enabled: true },
    clientIdMetadataDocument: { enabled: true, ack: 'draft-02' },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (_ctx, resource) => systemAt(resource),
    },
  },
});

const parameters = ['subject_token', 'subject_token_type', 'requested_token_type', 'audience', 'scope', 'resource'];
provider.registerGrantType(EXCHANGE, exchange, parameters);

const asked = [];
provider.on('grant.success', note);
provider.on('grant.error', note);
function note(ctx) {
  const { client: by, params } = ctx.oidc;
  asked.push({ grant: params?.grant_type ?? '', client: by?.clientId ?? '', resource: params?.resource ?? '' });
}

const times = {};
provider.use(async (ctx, next) => {
  if (ctx.path === '/token-requests') ctx.body = asked;
  else if (ctx.path === '/asked') ctx.body = times;
  else if (ctx.path === '/be') ctx.body = Object.assign(now, await json(ctx.req));
  else {
    times[ctx.path] = (times[ctx.path] ?? 0) + 1;
    if (now.down) ctx.status = 500;
    else await next();
    if (ctx.path === '/jwks' && !now.down) ctx.body = { keys: ctx.body.keys.filter((key) => now.published.includes(+key.kid.at(-1))) };
  }
});

provider.on('server_error', (_ctx, error) => console.error(error));
provider.listen(PORT, '127.0.0.1');
process.stdin.on('end', () => process.exit()).resume();
