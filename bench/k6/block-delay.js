// Users are disabled at random moments among others who go on. Each of them is one VU: it uses its token, has Keycloak
// disable its own user, and then asks until it is refused. The delay is from Keycloak's answer to the last request that passed.
import { check, sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter, Trend } from 'k6/metrics';
import { SharedArray } from 'k6/data';
import { bound, call, carries, handleSummary, seconds, soundness, tokens } from './lib.js';

export { handleSummary };

const victims = new SharedArray('victims', () => JSON.parse(open(__ENV.VICTIMS))); // [{ id, token }]
const EARLIEST = 2; // seconds after the start
const COARSE = 250; // ms by which a deadline of Postern's may be late

const delay = new Trend('block_delay_ms', true);
const disabled = new Counter('disabled');
const refused = new Counter('refused');
const again = new Counter('let_in_again');

export const options = {
  scenarios: {
    victims: {
      executor: 'per-vu-iterations',
      vus: victims.length,
      iterations: 1,
      maxDuration: `${seconds + 10}s`,
      exec: 'victim',
    },
    others: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE),
      duration: `${seconds}s`,
      preAllocatedVUs: 50,
      exec: 'others',
    },
  },
  thresholds: {
    ...soundness,
    disabled: [`count==${victims.length}`],
    refused: [`count==${victims.length}`],
    let_in_again: ['count==0'],
    block_delay_ms: [`max<=${bound + COARSE}`],
  },
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
};

export function setup() {
  return { began: Date.now() };
}

export function victim({ began }) {
  const { id, token } = victims[exec.scenario.iterationInTest];
  const latest = seconds - bound / 1000 - 2;
  const moment = began + (EARLIEST + Math.random() * (latest - EARLIEST)) * 1000;
  while (Date.now() < moment) {
    carries(call(token), token);
    sleep(0.1);
  }
  const answer = http.put(`${__ENV.ADMIN}/users/${id}`, JSON.stringify({ enabled: false }), {
    headers: { Authorization: `Bearer ${__ENV.ADMIN_TOKEN}`, 'Content-Type': 'application/json' },
    tags: { to: 'keycloak' },
  });
  const since = Date.now();
  if (!check(answer, { 'Keycloak disabled the user': (r) => r.status === 204 })) return;
  disabled.add(1);

  let last = since;
  while (Date.now() < since + 2 * bound) {
    const sent = Date.now();
    const response = call(token, [200, 401]);
    if (response.status !== 200) {
      check(response, { 'refused by name': (r) => r.status === 401 && r.json('reason') === 'user_inactive' });
      refused.add(1);
      break;
    }
    last = sent;
    sleep(0.02);
  }
  delay.add(last - since);
  // Out, and still out.
  while (Date.now() < began + seconds * 1000) {
    if (call(token, [401]).status === 200) again.add(1);
    sleep(0.25);
  }
}

export function others() {
  const token = tokens[exec.scenario.iterationInTest % tokens.length];
  carries(call(token), token);
}
