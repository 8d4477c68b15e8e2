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
