"""The HTTP service (§9): FastAPI routes and a model replica on Ray Serve."""
