"""What all HTTP routes share: the connection, the middleware, bodies, answers and errors."""
