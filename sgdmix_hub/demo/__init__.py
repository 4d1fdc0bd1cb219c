"""The offline domain: procedural birds, a tiny diffusion model trained on them and a tiny
classifier.
"""
