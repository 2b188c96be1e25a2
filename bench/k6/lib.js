// What the load scripts share. The gateway's upstream answers with the Authorization that it was given.
import { check } from 'k6';
import { b64decode } from 'k6/encoding';
import http from 'k6/http';
import { SharedArray } from 'k6/data';

export const gateway = __ENV.GATEWAY;
export const issuer = __ENV.ISSUER;
export const seconds = Number(__ENV.SECONDS);
export const bound = Number(__ENV.BOUND_MS);
export const tokens = new SharedArray('tokens', () => open(__ENV.TOKENS).trim().split('\n'));

// No request to the gateway fails, and each carries upstream what it should.
export const soundness = {
  'http_req_failed{to:gateway}': ['rate==0'],
  'http_req_duration{to:gateway}': [],
  'http_reqs{to:gateway}': ['count>0'],
  checks: ['rate==1'],
};

export function part(token, index) {
  return JSON.parse(b64decode(token.split('.')[index], 'rawurl', 's'));
}

// One request through the gateway. `expected` are the statuses that are no failure.
export function call(token, expected = [200], tags = {}) {
  return http.get(`${gateway}/api/echo`, {
    headers: { Authorization: `Bearer ${token}` },
    tags: { to: 'gateway', ...tags },
    responseCallback: http.expectedStatuses(...expected),
  });
}

// Whether the upstream was given a token of the gateway's own for the caller, and for nobody else.
export function carries(response, token) {
  return check(response, {
    'the answer is 200': (r) => r.status === 200,
    "the upstream has a namespace token of the caller's own": (r) => {
      if (r.status !== 200) return false;
      const given = r.json('authorization').replace('Bearer ', '');
      const caller = part(token, 1);
      const minted = part(given, 1);
      return given !== token && minted.sub === caller.sub && minted.namespace === caller.namespace;
    },
  });
}

// A token of the issuer's present key, by the password grant.
export function signIn(user) {
  const answer = http.post(
    `${issuer}/protocol/openid-connect/token`,
    { grant_type: 'password', client_id: 'cli', username: user, password: 'load' },
    { tags: { to: 'issuer' } },
  );
  return answer.json('access_token');
}

// POST /control/… at the issuer.
export function control(what) {
  const answer = http.post(`${issuer.replace('/realms/demo', '')}/control/${what}`, null, { tags: { to: 'issuer' } });
  if (answer.status !== 200) throw new Error(`/control/${what} answered ${answer.status}`);
  return answer.json();
}

// k6 calls the script's `handleSummary` at the end; the figures go to a file.
export function handleSummary(data) {
  return { [__ENV.SUMMARY]: JSON.stringify(data) };
}
