-- Posts the bytes of one file: wrk -s post.lua URL -- FILE MEDIA_TYPE [HEADER...]. The request is formatted once, so Lua stays out of the load.
function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = args[2]
  for i = 3, #args do
    local name, value = args[i]:match("^(.-): (.*)$")
    wrk.headers[name] = value
  end
  file:close()
end

-- wrk itself prints no percentile beyond 99.
function done(_, latency)
  io.write(string.format("   99.9%% %.2fus\n", latency:percentile(99.9)))
end
