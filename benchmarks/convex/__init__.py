"""`python -m benchmarks.convex`: convex problems, this package beside its peers."""
