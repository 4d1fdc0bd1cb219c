"""Put the bird of one photograph into the landscape of another: python examples/quickstart.py BIRD
LANDSCAPE OUT.png

No model is needed for mixing alone. With an adapter a diffusion model refines the mixture:
`SGDMixPipeline.from_pretrained("me/cub-adapter", strength=0.5)`, called with `labels` or `prompt`.
"""

import sys

from PIL import Image

from sgdmix_hub.pipeline import SGDMixPipeline

source, target, out = sys.argv[1:]
pipeline = SGDMixPipeline.from_pretrained(strength=0, resolution=512)
output = pipeline(Image.open(source), Image.open(target))
if output.images[0] is None:
    sys.exit(f"not mixed: {output.reasons[0]}")
output.images[0].save(out)
print(f"the mask's confidence is {output.mask_confidences[0]:.2f}")
