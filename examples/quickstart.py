"""Put the bird of one photograph into the landscape of another: python examples/quickstart.py BIRD
LANDSCAPE OUT.png

No model is needed for mixing alone. With an adapter a diffusion model refines the mixture:
`SGDMixPipeline.from_pretrained("me/cub-adapter", preset="recommended", strength=0.5)`.
"""

import sys

from PIL import Image

from sgdmix_hub.pipeline import SGDMixPipeline

source, target, out = sys.argv[1:]
pipeline = SGDMixPipeline.from_pretrained(preset="recommended", strength=0, resolution=512)
(mixed,) = pipeline([Image.open(source)], [Image.open(target)], labels=[0], seeds=[0])
if mixed is None:
    sys.exit("no mask of these two images can be trusted")
mixed.save(out)
