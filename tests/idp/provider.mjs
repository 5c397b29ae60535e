// The authorization server of the tests: `oidc-provider`, told of the gate, of its callers and of the systems
// behind it. It ends when its standard input does, so that no test leaves it behind.
//
//   PORT=18600 node provider.mjs
//   GET /token-requests   what its token endpoint was asked: [{grant, client, resource}]

import { generateKeyPairSync } from 'node:crypto';
import { createLocalJWKSet, jwtVerify } from 'jose';
import { Provider, errors } from 'oidc-provider';

const PORT = Number(process.env.PORT);
const ISSUER = `http://127.0.0.1:${PORT}`;
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';

// What tokens are for. A gate is found at any port of this machine; the desk is a system behind it.
const GATE = /^http:\/\/127\.0\.0\.1:\d+\/mcp$/;
const SYSTEMS = {
  'https://desk.example.com/': { scope: 'desk:read desk:write' },
  'https://opaque.example.com/': { scope: 'desk:read', accessTokenFormat: 'opaque' },
  'https://astray.example.com/': { scope: 'desk:read', audience: 'https://other.example.com/' },
  'https://brief.example.com/': { scope: 'desk:read', accessTokenTTL: 4 },
};

const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const named = (key) => ({ ...key.export({ format: 'jwk' }), kid: 'tests', use: 'sig', alg: 'ES256' });
const published = createLocalJWKSet({ keys: [named(publicKey)] });

function client(client_id, client_secret, scope, ...grant_types) {
  return { client_id, client_secret, scope, grant_types, redirect_uris: [], response_types: [] };
}

function systemAt(resource) {
  const told = GATE.test(resource) ? { scope: 'gate:use' } : SYSTEMS[resource];
  if (!told) throw new errors.InvalidTarget();
  const usual = { audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: 300, jwt: { sign: { alg: 'ES256' } } };
  return { ...usual, ...told };
}

async function subjectOf(token) {
  try {
    return (await jwtVerify(token, published, { issuer: ISSUER, typ: 'at+jwt' })).payload;
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
  jwks: { keys: [named(privateKey)] },
  clients: [
    client('mia', 'mia-secret', 'gate:use', 'client_credentials'),
    client('rob', 'rob-secret', 'gate:use', 'client_credentials'),
    client('gate', 'gate-secret', 'desk:read desk:write', 'client_credentials', EXCHANGE),
    client('gate at/work', 'p+s %w:o&r=d', 'desk:read', 'client_credentials'),
  ],
  clientDefaults: { id_token_signed_response_alg: 'ES256' },
  scopes: ['gate:use', 'desk:read', 'desk:write'],
  extraTokenClaims: (_ctx, token) => ({ roles: ['member'], ...token.extra }),
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
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

provider.use(async (ctx, next) => {
  if (ctx.path === '/token-requests') ctx.body = asked;
  else await next();
});

provider.on('server_error', (_ctx, error) => console.error(error));
provider.listen(PORT, '127.0.0.1');
process.stdin.on('end', () => process.exit()).resume();
