// Token churn: each request brings a token that the gateway has not seen before.
import exec from 'k6/execution';
import { call, carries, handleSummary, seconds, soundness, tokens } from './lib.js';

export { handleSummary };

export const options = {
  scenarios: {
    churn: { executor: 'shared-iterations', vus: 16, iterations: tokens.length, maxDuration: `${seconds}s` },
  },
  thresholds: { ...soundness, 'http_reqs{to:gateway}': [`count==${tokens.length}`] },
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
};

export default function () {
  const token = tokens[exec.scenario.iterationInTest];
  carries(call(token), token);
}
