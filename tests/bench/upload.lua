wrk.method = "POST"
wrk.body = string.rep("x", 100 * 1024)
