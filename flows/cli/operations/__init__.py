"""Commands for operators: a local stack, deployments, Ray jobs, and what is wrong with a machine."""
