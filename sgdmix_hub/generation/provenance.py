"""The mark in every published image that tells machines how it was made.

An XMP packet with IPTC's property DigitalSourceType (IPTC Photo Metadata Standard, extension
schema). Its value is a concept of IPTC's controlled vocabulary (cv.iptc.org).
"""

from __future__ import annotations

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# IPTC: edited with generative AI; parts of the image are captured or drawn, others are generated
PAINTED = "compositeWithTrainedAlgorithmicMedia"
# IPTC: a mix of several elements; `compositeCapture` would claim that all are captures of real life
MIXED = "composite"
PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' Iptc4xmpExt:DigitalSourceType="{value}"/>'
    "</rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)


def provenance_mark(is_painted: bool) -> bytes:
    """The XMP packet, UTF-8, of a mixture that a diffusion model has painted on, or not."""
    return PACKET.format(value=VOCABULARY + (PAINTED if is_painted else MIXED)).encode()
