"""`minimize`: the problem and its checks, the compiled loop, the derivative of the solution."""
