"""HTTP: the connection, the route table, the middleware, request bodies, answers and errors."""
