"""Arrays in, arrays out: Gaussian densities and divergences, the recurrent scan."""
