"""SGD-Mix (arXiv 2505.11813) as a dataset generator for the Hugging Face Hub."""

__version__ = "0.1.0"
