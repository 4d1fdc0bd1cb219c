"""The offline domain: procedural birds, a tiny diffusion model and a tiny classifier."""
