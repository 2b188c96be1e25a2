-- What wrk sends: wrk … -s wrk.lua URL -- TOKENS METHOD BYTES close|keep
-- Each request carries the next token of the file, from the first again after the last, and a body of BYTES bytes if that is not 0.
local requests, at = {}, 0

function init(args)
  local method, bytes = args[2], tonumber(args[3])
  for token in io.lines(args[1]) do
    local headers = { ["Authorization"] = "Bearer " .. token }
    if args[4] == "close" then headers["Connection"] = "close" end
    requests[#requests + 1] = wrk.format(method, nil, headers, bytes > 0 and string.rep("b", bytes) or nil)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    "FIGURES %d %f %f %f %d\n", summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
