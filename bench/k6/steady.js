// Authenticated steady state: every token has been seen before, after its first time.
import { call, carries, handleSummary, seconds, soundness, tokens } from './lib.js';

export { handleSummary };

export const options = {
  scenarios: { steady: { executor: 'constant-vus', vus: 16, duration: `${seconds}s` } },
  thresholds: { ...soundness, 'http_reqs{to:gateway}': [`count>${tokens.length}`] },
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
};

export default function () {
  const token = tokens[(__ITER * 16 + __VU) % tokens.length];
  carries(call(token), token);
}
