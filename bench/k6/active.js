// Many tokens in use, each now and then: all of them are asked about again in the background, and no request waits for it.
import exec from 'k6/execution';
import { call, carries, handleSummary, seconds, soundness, tokens } from './lib.js';

export { handleSummary };

export const options = {
  scenarios: {
    active: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE),
      duration: `${seconds}s`,
      preAllocatedVUs: 50,
    },
  },
  thresholds: { ...soundness, 'http_reqs{to:gateway}': [`count>=${tokens.length}`] },
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
};

export default function () {
  const token = tokens[exec.scenario.iterationInTest % tokens.length];
  carries(call(token), token);
}
