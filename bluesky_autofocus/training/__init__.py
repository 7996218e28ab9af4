"""Scripts that make the weights which the package ships, from simulated specimens."""
