// The load of every fault. Each caller has one kind of request, sends one at a time, and looks into every answer. Four times a
// second it asks the suite which phase it is, and stops when that is `end`.
import http from 'k6/http';
import exec from 'k6/execution';
import { sleep } from 'k6';
import { SharedArray } from 'k6/data';
import { Counter, Trend } from 'k6/metrics';

const { GATEWAY, CONTROL, SUMMARY, TOKENS, KINDS, PHASES, PAUSE, FRESH } = __ENV;
const kinds = KINDS.split(',').map((kind) => kind.split(':')); // get:8,post:4
const tokens = new SharedArray('tokens', () => open(TOKENS).trim().split('\n'));
const upload = 'u'.repeat(64 * 1024);
const DOWNLOAD = 200 * 1024;

const sent = new Counter('sent');
const failed = new Counter('failed');
const took = new Trend('took');

const scenarios = {};
const thresholds = {};
for (const [kind, vus] of kinds) {
  // One iteration is the whole load of a caller.
  scenarios[kind] = { executor: 'per-vu-iterations', vus: Number(vus), iterations: 1, maxDuration: '1h', exec: 'caller', env: { KIND: kind } };
  for (const metric of ['sent', 'failed']) thresholds[`${metric}{kind:${kind}}`] = ['count>=0'];
}
for (const phase of PHASES.split(',')) thresholds[`took{phase:${phase}}`] = ['max>=0'];

export const options = {
  scenarios,
  thresholds,
  noConnectionReuse: FRESH === 'yes',
  summaryTrendStats: ['count', 'med', 'p(99)', 'max'],
};

// What each kind asks for, and whether the answer is the one to this request.
const asks = {
  get: (id, params) => http.get(`${GATEWAY}/api/echo/${id}`, params),
  post: (id, params) => http.post(`${GATEWAY}/api/echo/${id}`, 'twelve bytes', params),
  upload: (id, params) => http.post(`${GATEWAY}/api/echo/${id}`, upload, params),
  download: (id, params) => http.get(`${GATEWAY}/api/big/${id}`, params),
};
const answers = {
  get: (id, body) => body === `${id} 0\n`,
  post: (id, body) => body === `${id} 12\n`,
  upload: (id, body) => body === `${id} ${upload.length}\n`,
  download: (id, body) => body.length === DOWNLOAD && body.startsWith(`${id}\n`),
};

export function caller() {
  const { KIND } = __ENV;
  const token = tokens[exec.vu.idInTest % tokens.length];
  const params = { headers: { Authorization: `Bearer ${token}` }, timeout: '25s' };
  let [phase, ask, number] = ['', 0, 0];
  for (;;) {
    if (Date.now() >= ask) {
      phase = http.get(`${CONTROL}?caller=${exec.vu.idInTest}`).body;
      ask = Date.now() + 250;
    }
    if (phase === 'end') return;
    const id = `${KIND}-${exec.vu.idInTest}-${(number += 1)}`;
    const answer = asks[KIND](id, params);
    const tags = { kind: KIND, phase };
    sent.add(1, tags);
    took.add(answer.timings.duration, tags);
    if (answer.status !== 200 || !answers[KIND](id, answer.body || '')) {
      failed.add(1, tags);
      const reason = /"reason":"([a-z_]+)"/.exec(answer.body || '');
      console.error(`${KIND} ${answer.status} ${reason ? reason[1] : answer.error || 'other body'} ${phase} ${Math.round(answer.timings.duration)}ms ${id}`);
    }
    sleep(Number(PAUSE));
  }
}

export function handleSummary(data) {
  return { [SUMMARY]: JSON.stringify(data) };
}
