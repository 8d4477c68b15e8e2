-- Posts the bytes of one file: wrk -s post.lua URL -- FILE MEDIA_TYPE. The request is formatted once, so Lua stays out of the load.
function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = args[2]
  file:close()
end
