// A client with a key of its own (DPoP, RFC 9449), by the library `jose`: gets a bound token of the provider and calls with
// it, as it should and as a thief would. Prints what each call was answered with.
// node dpop_client.mjs <token endpoint> <place to call>
import { createHash, randomUUID } from 'node:crypto';
import { SignJWT, exportJWK, generateKeyPair } from 'jose';

const [endpoint, place] = process.argv.slice(2);
const keys = async (alg) => {
  const { privateKey, publicKey } = await generateKeyPair(alg);
  return { alg, privateKey, jwk: await exportJWK(publicKey) };
};
const proof = (key, htm, htu, token) => new SignJWT({
  jti: randomUUID(), htm, htu,
  ...(token && { ath: createHash('sha256').update(token).digest('base64url') }),
}).setProtectedHeader({ alg: key.alg, typ: 'dpop+jwt', jwk: key.jwk }).setIssuedAt().sign(key.privateKey);

const token = async (key) => {
  const answer = await fetch(endpoint, {
    method: 'POST',
    headers: {
      authorization: `Basic ${btoa('batch:batch-secret-of-a-test')}`, dpop: await proof(key, 'POST', endpoint),
      'content-type': 'application/x-www-form-urlencoded',
    },
    body: 'grant_type=client_credentials&scope=read',
  });
  const said = await answer.json();
  if (said.token_type !== 'DPoP') throw new Error(JSON.stringify(said));
  return said.access_token;
};
const call = async (scheme, bearer, dpop) => {
  // Until the gateway has the keys of the issuer.
  for (;;) {
    const answer = await fetch(place, { headers: { authorization: `${scheme} ${bearer}`, ...(dpop && { dpop }) } });
    if (answer.status !== 503) return [answer.status, answer.headers.get('www-authenticate')];
  }
};

const own = await keys('ES256');
const bound = await token(own);
const once = await proof(own, 'GET', place, bound);
const results = {
  own: await call('DPoP', bound, once),
  again: await call('DPoP', bound, once),
  another: await call('DPoP', bound, await proof(own, 'GET', `${place}?page=2`, bound)),
  bearer: await call('Bearer', bound),
  thief: await call('DPoP', bound, await proof(await keys('ES256'), 'GET', place, bound)),
  elsewhere: await call('DPoP', bound, await proof(own, 'GET', new URL('/elsewhere', place).href, bound)),
};
for (const alg of ['EdDSA', 'ES384', 'RS256', 'PS256']) {
  const key = await keys(alg);
  const one = await token(key);
  results[alg] = await call('DPoP', one, await proof(key, 'GET', place, one));
}
console.log(JSON.stringify(results));
