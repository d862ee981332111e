// A certified OpenID provider: issuer of access tokens by client credentials (RFC 9068, ES256), and a place where
// people log in, by authorisation code with PKCE and by the device grant. Prints its port; ends with its standard input.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
const groups = { ada: ['mesh-admins'], bob: ['mesh-admins', 'staff'], vera: ['staff'], eve: ['strangers'] };
const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  const resource = 'https://shop.example.com';
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    jwks: { keys: [{ ...key, kid: 'provider-1', use: 'sig', alg: 'ES256' }] },
    clients: [{
      client_id: 'batch', client_secret: 'batch-secret-of-a-test', grant_types: ['client_credentials'],
      redirect_uris: [], response_types: [], id_token_signed_response_alg: 'ES256',
    }, {
      // Native and public (RFC 8252): any port of the loopback address is its redirect URI.
      client_id: 'signet', application_type: 'native', token_endpoint_auth_method: 'none',
      grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
      redirect_uris: ['http://127.0.0.1/callback'], response_types: ['code'], id_token_signed_response_alg: 'ES256',
    }],
    scopes: ['openid', 'read', 'write'],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'], groups: ['groups'] },
    // Claims of a scope stand in the ID token itself.
    conformIdTokenClaims: false,
    findAccount: (ctx, id, token) => {
      // As providers do that carry the nonce of a device authorisation request into the ID token.
      if (token?.constructor?.name === 'DeviceCode') token.nonce = token.params?.nonce;
      return {
        accountId: id,
        claims: () => ({
          sub: id, name: `${id} of the test`, email: `${id}@example.com`, email_verified: true, groups: groups[id] ?? [],
        }),
      };
    },
    enabledJWA: { dPoPSigningAlgValues: ['ES256', 'ES384', 'RS256', 'PS256', 'EdDSA', 'Ed25519'] },
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      dPoP: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx, client) => (client.clientId === 'batch' ? resource : undefined),
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: 'read write', audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: 300,
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
  server.on('request', provider.callback());
  console.log(port);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
