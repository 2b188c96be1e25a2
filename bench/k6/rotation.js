// Key rotation under load: the issuer signs with a new key at once, twice, and no request fails. Callers renew their
// token all the time, as they do, so each rotation is met at full load by tokens whose key the gateway has never seen.
import { sleep } from 'k6';
import { Counter } from 'k6/metrics';
import { call, carries, control, handleSummary, part, seconds, signIn, soundness } from './lib.js';

export { handleSummary };

const served = new Counter('served');

export const options = {
  scenarios: {
    load: { executor: 'constant-vus', vus: 8, duration: `${seconds}s`, exec: 'load' },
    rotate: {
      executor: 'per-vu-iterations',
      vus: 1,
      iterations: 2,
      startTime: `${seconds / 3}s`,
      maxDuration: `${seconds}s`,
      exec: 'rotate',
    },
  },
  thresholds: {
    ...soundness,
    'served{key:ES256-1}': ['count>0'],
    'served{key:ES256-2}': ['count>0'],
    'served{key:ES256-3}': ['count>0'],
  },
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
};

let token;

export function load() {
  if (__ITER % 10 === 0) token = signIn(`user-${__VU}`);
  if (carries(call(token), token)) served.add(1, { key: part(token, 0).kid });
  sleep(0.01);
}

export function rotate() {
  control('rotate');
  sleep(seconds / 3);
}
