"""The HTTP service (§9): FastAPI routes and model replicas on Ray Serve."""
