"""Metrics as `evaluate` modules. They work offline; `evaluate.load("accuracy")` needs the Hub."""
