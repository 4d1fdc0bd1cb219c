"""Settings of pipelines that are called on a few birds."""

SIZE = 32
SMALL = {
    "num_inference_steps": 6,
    "resolution": SIZE,
    "batch_size": 2,
    "saliency_method": "spectral-residual",  # the quickest
}
