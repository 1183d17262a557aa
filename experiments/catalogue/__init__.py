"""One file for each experiment; none imports another."""
