"""Commands for operators: a local stack, deployments, Ray jobs, studies, and what is wrong with a machine."""
