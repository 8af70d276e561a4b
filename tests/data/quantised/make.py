"""Writes TYPE.bin: blocks, then their elements as float32 by gguf-py (numpy), which src/kernels/block_formats_test.cc compares with.

python make.py DIR, with DIR/dense-TYPE.gguf a model of that type; needs the packages gguf and numpy. The first elements are of the model's
first matrix of the type, the others are random bytes with scales of both signs, a denormal one and zero. The models were made for this
project (CC0).
"""

import os
import sys

import gguf
import numpy as np

HALVES = {"Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208], "IQ4_NL": [0]}
SCALES = np.array([0.37, -1.9, 5.1e-7, 0.0, 121.0, -0.011], np.float16)


def main(models):
    random = np.random.default_rng(5)
    for name, halves in HALVES.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        reader = gguf.GGUFReader(os.path.join(models, f"dense-{name.lower()}.gguf"))
        matrix = next(t for t in reader.tensors if t.tensor_type == kind)
        real = np.array(matrix.data).reshape(-1, size)[: 256 // elements]
        made = random.integers(0, 256, (512 // elements, size), dtype=np.uint8)
        for i, block in enumerate(made):
            for j, at in enumerate(halves):
                block[at : at + 2] = SCALES[(i + 3 * j) % len(SCALES) : (i + 3 * j) % len(SCALES) + 1].view(np.uint8)
        blocks = np.concatenate([real, made])
        floats = gguf.quants.dequantize(blocks, kind).astype(np.float32)
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name.lower()}.bin"), "wb") as out:
            out.write(blocks.tobytes() + floats.tobytes())


main(sys.argv[1])
