// A long time at half load: tokens seen before, small and large answers, bodies, tokens that are refused. With MOST=yes as much
// as goes through, to know what half of it is.
import { check } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { call, carries, gateway, handleSummary, seconds, soundness, tokens } from './lib.js';

export { handleSummary };

const most = __ENV.MOST === 'yes';
const body = 'b'.repeat(4096);
const SIZE = 256 * 1024;

const usual = most
  ? { executor: 'constant-vus', vus: 32, duration: `${seconds}s` }
  : { executor: 'constant-arrival-rate', rate: Number(__ENV.RATE), duration: `${seconds}s`, preAllocatedVUs: 32, maxVUs: 32 };
const seldom = { executor: 'constant-arrival-rate', rate: 5, duration: `${seconds}s`, preAllocatedVUs: 4, exec: 'refused' };

export const options = {
  scenarios: most ? { usual } : { usual, seldom },
  thresholds: soundness,
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
};

export default function () {
  const number = exec.scenario.iterationInTest;
  const token = tokens[number % tokens.length];
  if (number % 20 === 7) {
    check(told(ask('POST', 'post', token, body)), { 'the answer is 200': (r) => r.status === 200 });
  } else if (number % 50 === 13) {
    check(told(ask('GET', 'large', token)), { 'a large answer is whole': (r) => r.status === 200 && r.body.length === SIZE });
  } else {
    carries(told(call(token)), token);
  }
}

// What went wrong, as far as it goes.
function told(response, expected = 200) {
  if (response.status !== expected) console.error(`${response.status} ${response.error} ${String(response.body).slice(0, 200)}`);
  return response;
}

function ask(method, path, token, content) {
  return http.request(method, `${gateway}/api/${path}`, content, {
    headers: { Authorization: `Bearer ${token}` },
    tags: { to: 'gateway' },
  });
}

// A token whose signature is not right.
export function refused() {
  const token = tokens[0].replace(/.{8}$/, 'AAAAAAAA');
  check(told(call(token, [401]), 401), { 'a forged token is refused': (r) => r.status === 401 });
}
