"""The product's own metrics, as `evaluate` modules: they work offline, where
`evaluate.load("accuracy")` needs the Hub.
"""
