// A user is disabled under load: from then on no request of theirs passes after `bound`, and nobody else notices.
import { check, sleep } from 'k6';
import { Counter, Trend } from 'k6/metrics';
import { bound, call, carries, control, handleSummary, part, seconds, soundness, tokens } from './lib.js';

export { handleSummary };

const VICTIM = 'user-0';
const MOMENT = 1500; // ms after the start

const passed = new Counter('victim_passed');
const refused = new Counter('victim_refused');
// How long after the moment of disabling requests that passed were sent, and how long after it they were answered.
const lastSent = new Trend('victim_sent_after_ms');
const lastAnswered = new Trend('victim_answered_after_ms');

const load = { executor: 'constant-vus', vus: 6, duration: `${seconds}s` };

export const options = {
  scenarios: { victim: { ...load, exec: 'victim' }, others: { ...load, exec: 'others' } },
  thresholds: {
    ...soundness,
    victim_passed: ['count>0'],
    victim_refused: ['count>0'],
    victim_sent_after_ms: [`max<=${bound}`],
    victim_answered_after_ms: [`max<=${bound + 500}`], // the answer's own way, on a loaded machine
  },
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
};

export function setup() {
  const at = Date.now() + MOMENT;
  control(`disable?user=${VICTIM}&at=${at}`);
  return { at, ...split() };
}

// The victim's tokens and everybody else's.
function split() {
  const all = [...tokens];
  const isVictim = (token) => part(token, 1).preferred_username === VICTIM;
  return { victims: all.filter(isVictim), rest: all.filter((token) => !isVictim(token)) };
}

export function victim({ at, victims }) {
  const token = victims[__ITER % victims.length];
  const sent = Date.now();
  const response = call(token, [200, 401]);
  if (response.status === 200) {
    passed.add(1);
    if (sent >= at) {
      lastSent.add(sent - at);
      lastAnswered.add(Date.now() - at);
    }
  } else {
    refused.add(1);
    check(response, { 'the user is refused by name': (r) => r.status === 401 && r.json('reason') === 'user_inactive' });
  }
  sleep(0.01);
}

export function others({ rest }) {
  const token = rest[__ITER % rest.length];
  carries(call(token), token);
  sleep(0.01);
}
