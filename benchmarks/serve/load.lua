-- One request, again and again; the result as one line of JSON.
if os.getenv("BENCH_BODY") then
  local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
  wrk.method, wrk.body = "POST", file:read("*a")
  wrk.headers["Content-Type"] = os.getenv("BENCH_TYPE")
  file:close()
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\nJSON {"answered":%d,"microseconds":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max, e.connect, e.read, e.write, e.status, e.timeout))
end
